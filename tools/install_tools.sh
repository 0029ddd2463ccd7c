#!/bin/sh
# Installs what the tests use from outside: programs (Debian packages), where this user may; players (npm), into build/.
# Never fails: a program that cannot be had only means that its tests are left out, and the summary says so.
set -u
players="$(dirname "$0")/../build/players"
if command -v npm >/dev/null 2>&1 && ! { [ -d "$players/node_modules/hls.js" ] && [ -d "$players/node_modules/mpegts.js" ]; }; then
  echo "fetching the players that the browser tests load: hls.js mpegts.js"
  mkdir -p "$players"
  npm install --prefix "$players" --no-audit --no-fund --silent hls.js@1.7 mpegts.js@1.8 >/dev/null 2>&1 ||
    echo "could not fetch them; the tests of FLV, MPEG-TS and HLS in the browser will be left out"
fi
# GStreamer: 21 MB to fetch, 62 MB on the disk
gstreamer="gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav"
packages="chromium ffmpeg sip-tester tshark prometheus fonts-noto-cjk iproute2 $gstreamer"
missing=""
for pair in chromium:chromium ffprobe:ffmpeg sipp:sip-tester tshark:tshark promtool:prometheus ip:iproute2 \
  gst-launch-1.0:gstreamer1.0-tools; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "not installed:$missing (needs root on Debian); their tests will be left out"
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
echo "installing:$packages"
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; } >/dev/null 2>&1; then
  echo "could not install all of:$missing; the tests of what is missing will be left out"
fi
exit 0
