// Words of the page in Chinese and English. Programs' words (causes, states) are translated here too.

const WORDS = {
  title: ["视频联网网关", "Video gateway"],
  subtitle: ["GB/T 28181 视频联网", "GB/T 28181 video networking"],
  username: ["用户名", "User name"], password: ["密码", "Password"], login: ["登录", "Log in"], logout: ["退出登录", "Log out"],
  first_hint: ["首次启动时，管理员 admin 的随机密码会打印在网关的终端里。", "On first start the gateway prints a random password for admin in its terminal."],
  live: ["实时预览", "Live"], devices: ["设备", "Devices"], platforms: ["上级平台", "Upper platforms"], sessions: ["会话", "Sessions"], system: ["系统", "System"],
  cameras: ["摄像机", "Cameras"], channels: ["通道", "Channels"], by_device: ["按设备", "By device"], by_division: ["按区划", "By division"],
  search_channel: ["搜索通道名称或编码", "Search name or code"], nothing_found: ["没有找到", "Nothing found"], more: ["更多…", "More …"],
  empty_tree: ["还没有设备。把摄像机的 SIP 服务器指向本网关，或在“设备”里录入。", "No devices yet. Point a camera's SIP server at this gateway, or enter it under Devices."],
  unassigned: ["未划分", "Unassigned"], online: ["在线", "Online"], offline: ["离线", "Offline"], all: ["全部", "All"],
  slot: ["画面", "View"], pick: ["点选窗口，再点左侧通道", "Pick a view, then a channel on the left"], opening: ["正在打开…", "Opening …"],
  reconnecting: ["正在重连…", "Reconnecting …"], retry: ["重试", "Retry"], close: ["关闭", "Close"], mute: ["静音", "Mute"], unmute: ["打开声音", "Sound on"], speak: ["对讲", "Speak"], speak_stop: ["停止对讲", "Stop speaking"], no_microphone: ["浏览器只在 HTTPS 或本机页面提供麦克风", "Browsers give a microphone to pages by HTTPS only"],
  snapshot: ["抓图", "Snapshot"], fullscreen: ["全屏", "Full screen"], single: ["单画面", "One view"], quad: ["四画面", "Four views"], stop_all: ["全部停止", "Stop all"],
  first_picture: ["首帧", "First picture"], first_short: ["首帧", "First"], codec_unsupported: ["此浏览器不能解码", "This browser cannot decode"], codec_hint: ["换用支持该格式硬件解码的浏览器，或把摄像机改为 H.264。", "Use a browser with hardware decoding for it, or set the camera to H.264."],
  catalog_state: ["目录状态", "Catalog says"], maker_model: ["厂商", "Maker"], division: ["行政区划", "Division"],
  ptz: ["云台控制", "PTZ"], speed: ["速度", "Speed"], zoom: ["变倍", "Zoom"], focus: ["聚焦", "Focus"], iris: ["光圈", "Iris"], preset: ["预置位", "Preset"],
  call: ["调用", "Go to"], set: ["设置", "Set"], remove: ["删除", "Delete"], ptz_hint: ["按住转动，松开停止；方向键亦可", "Hold to move, release to stop; arrow keys work too"],
  ptz_none: ["先打开一个画面", "Open a picture first"], ptz_viewer: ["观看者不能控制云台", "Viewers cannot control cameras"],
  left: ["左", "Left"], right: ["右", "Right"], up: ["上", "Up"], down: ["下", "Down"], up_left: ["左上", "Up left"], up_right: ["右上", "Up right"],
  down_left: ["左下", "Down left"], down_right: ["右下", "Down right"], stop: ["停止", "Stop"], near: ["近", "Near"], far: ["远", "Far"], open: ["开", "Open"],
  picture: ["画面信息", "Picture"], codec: ["音视频格式", "Codec"], protocol: ["协议", "Protocol"], bitrate: ["码率", "Bitrate"], rate: ["帧率", "Frame rate"], resolution: ["分辨率", "Resolution"],
  device: ["设备", "Device"], channel: ["通道", "Channel"], code: ["国标编码", "Code"], state: ["状态", "State"], transport: ["传输", "Transport"], loss: ["丢包", "Loss"],
  events: ["事件", "Events"], no_events: ["还没有事件", "No events yet"], link_lost: ["与网关的连接断开", "Link to the gateway lost"], link_good: ["实时更新", "Live updates"],
  add_device: ["录入设备", "Add device"], edit_device: ["编辑设备", "Edit device"], search_device: ["搜索编码、名称、厂商、地址", "Search code, name, maker, address"], name: ["名称", "Name"], maker: ["厂商 / 型号", "Maker / model"],
  address: ["地址", "Address"], edition: ["版本", "Edition"], last_seen: ["最近消息", "Last seen"], reason: ["原因", "Reason"], actions: ["操作", "Actions"],
  refresh_catalog: ["查询目录", "Query catalog"], catalog_asked: ["已向设备查询目录", "Catalog asked for"], delete_device: ["删除设备及其通道？", "Delete the device and its channels?"],
  device_password: ["设备密码", "Device password"], keep_empty: ["留空则不变", "leave empty to keep"], domain_password: ["留空则使用域密码", "empty: the domain password holds"],
  profile: ["设备档案", "Profile"], signalling: ["信令", "Signalling"], profile_and_wire: ["档案与信令", "Profile and signalling"], capture: ["下载抓包文件", "Download capture"],
  setting: ["设置", "Setting"], value: ["值", "Value"], origin: ["来源", "Origin"], origin_vendor: ["厂商资料", "make"], origin_model: ["同型号经验", "model"], origin_learned: ["自动学习", "learned"],
  origin_operator: ["人工设置", "operator"], all_default: ["全部为默认值。", "All settings have their defaults."],
  media_transport: ["媒体传输", "Media transport"], charset: ["字符集", "Character set"], sdp_form: ["SDP 形式", "SDP form"], default: ["默认", "Default"],
  cancel: ["取消", "Cancel"], save: ["保存", "Save"], delete: ["删除", "Delete"], edit: ["编辑", "Edit"], saved: ["已保存", "Saved"], deleted: ["已删除", "Deleted"],
  add_platform: ["添加上级平台", "Add upper platform"], edit_platform: ["编辑上级平台", "Edit upper platform"], no_platforms: ["还没有上级平台。", "No upper platforms yet."],
  delete_platform: ["注销并删除这个上级平台？", "Log out and delete this upper platform?"], last_response: ["最近应答", "Last answer"], registered_at: ["注册时间", "Registered"],
  next_try: ["下次尝试", "Next try"], subscriptions: ["订阅", "Subscriptions"], streams: ["取流", "Streams"], shared: ["共享通道", "Shared"], share_all: ["共享全部通道", "Share all channels"],
  shares: ["共享选择", "Shares"], selected: ["已选", "Selected"], select_page: ["选择本页", "Select page"], exported: ["对上编码", "Code upward"], enable: ["启用", "Enable"], disable: ["停用", "Disable"], enabled: ["启用", "Enabled"],
  platform_id: ["平台编码（20 位）", "Platform code (20 digits)"], device_id: ["设备编码（20 位）", "Device code (20 digits)"], domain: ["SIP 域", "SIP domain"], domain_hint: ["空：编码的前十位", "empty: the first ten digits of the code"], host: ["主机地址", "Host"], port: ["端口", "Port"],
  our_id: ["本级编码（空：默认）", "Our code (empty: default)"], digest_user: ["认证用户名（空：本级编码）", "Digest user (empty: our code)"], expires: ["注册有效期（秒）", "Registration (s)"], heartbeat: ["心跳（秒）", "Heartbeat (s)"], rights: ["权限", "Rights"], max_streams: ["并发上限（0 不限）", "Stream limit (0: none)"],
  viewers: ["观看", "Viewers"], uppers: ["上级", "Uppers"], started: ["开始", "Started"], no_sessions: ["现在没有媒体会话。", "No media sessions now."], stop_session: ["停止会话", "Stop session"],
  server: ["本级信息", "This gateway"], server_id: ["SIP 服务器编码", "SIP server code"], sip_address: ["SIP 地址", "SIP address"], version: ["版本", "Version"], uptime: ["已运行", "Uptime"], nodes: ["媒体节点", "Media nodes"], free_ports: ["空闲端口", "Free ports"], lag: ["延迟", "Lag"],
  users: ["用户", "Users"], role: ["角色", "Role"], add_user: ["添加用户", "Add user"], created: ["创建时间", "Created"], tokens: ["API 令牌", "API tokens"], add_token: ["新建令牌", "New token"], last_used: ["最近使用", "Last used"], token_once: ["令牌只显示这一次，请现在保存：", "The token is shown only now; save it:"],
  audit: ["操作审计", "Audit log"], who: ["谁", "Who"], action: ["操作", "Action"], target: ["对象", "Target"], result: ["结果", "Result"], at: ["时间", "Time"], api_docs: ["API 文档", "API documentation"],
  change_password: ["修改密码", "Change password"], current_password: ["当前密码", "Current password"], new_password: ["新密码（至少 8 位）", "New password (8 or more)"], password_changed: ["密码已修改", "Password changed"], reset_password: ["重设密码", "Reset password"],
  never: ["从未", "never"], now: ["刚刚", "now"], expires_at: ["到期", "Expires"], unlimited: ["不过期", "never"], page: ["页", "page"], prev: ["上一页", "Previous"], next: ["下一页", "Next"], copy: ["复制", "Copy"], copied: ["已复制", "Copied"], connect_hint: ["摄像机里填写", "Enter in the camera"], confirm: ["确定", "OK"], reload: ["刷新", "Reload"], yes: ["是", "yes"], no: ["否", "no"],
};

const CODES = {
  administrator: ["管理员", "Administrator"], operator: ["操作员", "Operator"], viewer: ["观看者", "Viewer"],
  camera: ["摄像机", "Camera"], recorder: ["录像机", "Recorder"], platform: ["平台", "Platform"], other: ["其他", "Other"],
  registering: ["注册中", "Registering"], waiting: ["等待重试", "Waiting"], disabled: ["已停用", "Disabled"], streaming: ["播放中", "Streaming"], ending: ["结束中", "Ending"], ended: ["已结束", "Ended"],
  heartbeat_lost: ["心跳丢失", "heartbeats lost"], expired: ["注册过期", "registration expired"], unregistered: ["设备注销", "logged out"], connection_lost: ["连接断开", "connection lost"], restart: ["网关重启", "gateway restarted"], removed: ["已删除", "removed"], never_registered: ["从未注册", "never registered"], "never registered": ["从未注册", "never registered"],
  registered: ["注册", "registered"], heartbeat_: ["心跳", "heartbeat"], resumed: ["恢复", "resumed"],
  not_found: ["不存在", "Not found"], device_offline: ["设备离线", "Device offline"], busy: ["设备忙", "Device busy"], rejected: ["设备拒绝", "Refused by the device"], invite_timeout: ["设备没有应答", "The device did not answer"], sdp_not_accepted: ["媒体协商失败", "Media not agreed"], no_stream: ["没有收到媒体流", "No stream arrived"], no_picture: ["收到数据但没有画面", "Data but no picture"], media_mismatch: ["媒体与协商不符", "Media differs from what was agreed"], unsupported: ["编码不支持", "Codec not supported"], no_port: ["媒体端口用完", "No media port left"], no_ssrc: ["SSRC 用完", "No SSRC left"], no_address: ["没有可用地址", "No usable address"], transcoders_busy: ["转码器已用完", "All transcoders are in use"], node_down: ["媒体节点未运行", "Media node is down"], cancelled: ["已取消", "Cancelled"], not_ready: ["画面未就绪", "Not ready"], unavailable: ["媒体节点未应答", "Media node does not answer"],
  no_answer: ["设备没有应答", "No answer"], not_movable: ["不能转动", "Cannot move"], taken: ["他人正在控制", "Somebody else moves it"], role_too_low: ["权限不足", "Not permitted"], login_refused: ["用户名或密码错误", "User name or password is wrong"], too_many_attempts: ["尝试过多，请稍后再试", "Too many attempts; wait a little"], unreachable: ["网关没有应答", "The gateway does not answer"], exists: ["已存在", "Exists already"], conflict: ["冲突", "Conflict"], weak_password: ["密码太弱", "Password too weak"], invalid_input: ["输入有误", "Input refused"], ambiguous_channel: ["通道编码重复", "Code used twice"], internal: ["网关内部错误", "Gateway fault"], cross_site: ["请求来源不符", "Foreign request"],
  idle: ["无人观看", "nobody watches"], device_bye: ["设备挂断", "device hung up"], no_rtp: ["媒体中断", "media stopped"], gateway_stopped: ["网关停止", "gateway stopped"], node_lost: ["媒体节点丢失", "media node lost"], play: ["点播", "Play"], playback: ["回放", "Playback"], download: ["下载", "Download"], broadcast: ["广播", "Broadcast"], config: ["配置", "Config"],
  udp: ["UDP", "UDP"], tcp_passive: ["TCP 被动", "TCP passive"], tcp_active: ["TCP 主动", "TCP active"], ok: ["成功", "ok"],
  ON: ["开", "ON"], OFF: ["关", "OFF"], VLOST: ["视频丢失", "video lost"], DEFECT: ["故障", "defect"],
};

const EVENTS = {
  device_added: ["设备加入", "Device added"], device_removed: ["设备删除", "Device removed"], device_online: ["设备上线", "Device online"], device_offline: ["设备离线", "Device offline"], device_moved: ["设备地址变化", "Device moved"], device_fault: ["设备故障", "Device fault"], device_conflict: ["设备编码冲突", "Device code conflict"], device_conflict_ended: ["设备编码冲突解除", "Device code conflict over"], channel_added: ["通道加入", "Channel added"], channel_removed: ["通道删除", "Channel removed"], channel_status: ["通道状态", "Channel state"], channel_conflict: ["通道编码冲突", "Channel code conflict"], catalog_collected: ["目录收集", "Catalog collected"], catalog_shrank: ["目录变少", "Catalog shrank"], catalog_fault: ["目录数据有误", "Catalog fault"], subscription_changed: ["订阅变化", "Subscription"], session_started: ["会话开始", "Session started"], session_ended: ["会话结束", "Session ended"], session_failed: ["点播失败", "Play failed"], media_fault: ["媒体异常", "Media fault"], first_picture: ["首帧到达", "First picture"], talk_changed: ["对讲", "Talk"], platform_changed: ["上级平台", "Upper platform"], alarm_raised: ["报警", "Alarm"], alarm_repeated: ["报警重复", "Alarm again"], alarm_flood: ["报警过多", "Alarm flood"], alarm_acknowledged: ["报警已确认", "Alarm acknowledged"], alarm_snapshot: ["报警抓图", "Alarm picture"], clock_fault: ["设备时钟异常", "Clock fault"], position_reported: ["位置上报", "Position"], position_fault: ["位置数据异常", "Position fault"], ptz_position_reported: ["云台位置", "Camera direction"], device_snapshot_received: ["设备抓图到达", "Device picture"], device_snapshots_ended: ["设备抓图结束", "Device pictures ended"], video_upload_announced: ["设备请求拉流", "Video announced"], security_event: ["安全事件", "Security"], dropped: ["事件丢弃", "Events dropped"],
};

let index = localStorage.getItem("language") === "en" ? 1 : 0;

export const language = () => (index ? "en" : "zh");
export function setLanguage(name) {
  index = name === "en" ? 1 : 0;
  localStorage.setItem("language", name);
  document.documentElement.lang = index ? "en" : "zh-CN";
}
setLanguage(language());

export const t = (key) => (WORDS[key] ? WORDS[key][index] : key);
/** A program's word (state, cause, role …); unknown ones are shown as they are. */
export const word = (code) => (CODES[code] ? CODES[code][index] : WORDS[code] ? WORDS[code][index] : String(code || "").replaceAll("_", " "));
export const eventWord = (name) => (EVENTS[name] ? EVENTS[name][index] : name);

/** The reason of a channel's or device's state, as the gateway words it, in the page's language. */
export function reasonText(text) {
  if (!text) return "";
  let match = /^device offline: (.*)$/.exec(text);
  if (match) return `${word("device_offline")}${index ? ": " : "："}${word(match[1])}`;
  match = /^reported (\w+)$/.exec(text);
  if (match) return index ? `reported ${match[1]}` : `上报状态 ${match[1]}`;
  return word(text);
}

const FAULTS = [
  [/match pattern/, () => "格式不正确"], [/Field required/, () => "必填"], [/at least (\d+) char/, (m) => `至少 ${m[1]} 个字符`], [/at most (\d+) char/, (m) => `最多 ${m[1]} 个字符`],
  [/greater than or equal to ([\d.]+)/, (m) => `不小于 ${m[1]}`], [/less than or equal to ([\d.]+)/, (m) => `不大于 ${m[1]}`], [/valid (integer|number)/, () => "应为数字"], [/exists already/, () => "已存在"],
  [/no such channel/, () => "没有这个通道"], [/too easy/, () => "密码太简单"], [/8 to 256/, () => "密码应为 8 至 256 个字符"], [/current password is wrong/, () => "当前密码不正确"],
];

/** What is wrong with one field, in the page's language. */
export function faultText({ field, detail }) {
  const text = detail.startsWith(`${field}: `) ? detail.slice(field.length + 2) : detail;
  if (index) return text;
  for (const [pattern, say] of FAULTS) {
    const match = pattern.exec(text);
    if (match) return say(match);
  }
  return text;
}

export function problemText(error) {
  const known = CODES[error.cause];
  if (index) return error.message || word(error.cause);
  if (!known) return error.message;
  return error.cause === "invalid_input" || error.cause === "conflict" ? `${known[0]}：${error.message}` : known[0];
}

const pad = (n) => String(n).padStart(2, "0");
export function clockTime(value) {
  const d = value ? new Date(value) : new Date();
  return `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
}
export function dateTime(value) {
  if (!value) return "—";
  const d = new Date(value);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())} ${clockTime(value)}`;
}
export function ago(value) {
  if (!value) return t("never");
  const s = Math.max(0, (Date.now() - new Date(value)) / 1000);
  if (s < 5) return t("now");
  if (s < 90) return index ? `${Math.round(s)} s ago` : `${Math.round(s)} 秒前`;
  if (s < 5400) return index ? `${Math.round(s / 60)} min ago` : `${Math.round(s / 60)} 分钟前`;
  if (s < 172800) return index ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 3600)} 小时前`;
  return dateTime(value).slice(0, 10);
}
export function duration(seconds) {
  const s = Math.round(seconds);
  const d = Math.floor(s / 86400), h = Math.floor((s % 86400) / 3600), m = Math.floor((s % 3600) / 60);
  if (d) return index ? `${d} d ${h} h` : `${d} 天 ${h} 小时`;
  if (h) return index ? `${h} h ${m} min` : `${h} 小时 ${m} 分`;
  return m ? (index ? `${m} min ${s % 60} s` : `${m} 分 ${s % 60} 秒`) : (index ? `${s} s` : `${s} 秒`);
}
