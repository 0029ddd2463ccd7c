"""All tables, as SQLAlchemy Core tables. A change here needs a migration in storage/migrations/versions."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

devices = Table(
    "devices",
    metadata,
    Column("device_id", String(20), primary_key=True),
    Column("name", String(255), nullable=False, default=""),
    Column("kind", String(16), nullable=False),
    Column("manufacturer", String(128), nullable=False, default=""),
    Column("model", String(128), nullable=False, default=""),
    Column("firmware", String(128), nullable=False, default=""),
    Column("edition", String(8), nullable=False, default="2.0"),
    Column("user_agent", String(255), nullable=False, default=""),
    Column("profile", JSON, nullable=False),
    Column("provisioned", Boolean, nullable=False, default=False),
    Column(
        "ha1", JSON, nullable=True
    ),  # {"realm": ..., "MD5": ..., "SHA-256": ...}; the password itself is not kept
    Column("state", String(16), nullable=False, default="offline"),
    Column("offline_cause", String(64), nullable=False, default=""),
    Column("flow", JSON, nullable=True),
    Column("contact", String(255), nullable=False, default=""),
    Column("registered_at", DateTime(timezone=True)),
    Column("expires_at", DateTime(timezone=True)),
    Column("last_seen_at", DateTime(timezone=True)),
    Column("registration_expired", Boolean, nullable=False, default=False),
    Column("heartbeat_interval_s", Integer, nullable=False, default=60),
    Column("heartbeat_count", Integer, nullable=False, default=3),
    Column("catalog_at", DateTime(timezone=True)),
    Column("catalog_complete", Boolean, nullable=False, default=False),
)

channels = Table(
    "channels",
    metadata,
    Column("device_id", String(20), primary_key=True),
    Column("channel_id", String(20), primary_key=True),
    Column("name", String(255), nullable=False, default=""),
    Column("kind", String(24), nullable=False),
    Column("manufacturer", String(128), nullable=False, default=""),
    Column("model", String(128), nullable=False, default=""),
    Column("civil_code", String(8), nullable=False, default=""),
    Column("block", String(32), nullable=False, default=""),
    Column("address", String(255), nullable=False, default=""),
    Column("parental", Integer, nullable=False, default=0),
    Column("parent_ids", JSON, nullable=False),
    Column("business_group_id", String(20), nullable=False, default=""),
    Column("longitude", Float),
    Column("latitude", Float),
    Column("point_class", Integer),
    Column("grassroots_code", String(6), nullable=False, default=""),
    Column("ptz_type", Integer),
    Column("secrecy", Integer, nullable=False, default=0),
    Column("item", JSON, nullable=False),
    Column("reported", String(8), nullable=False, default="OFF"),
    Column("reported_at", DateTime(timezone=True)),
    Column("media_proof_at", DateTime(timezone=True)),
    Column("deleted_at", DateTime(timezone=True)),
    Column("missing_count", Integer, nullable=False, default=0),
    Column("added_at", DateTime(timezone=True)),
    Column("updated_at", DateTime(timezone=True)),
    Index(None, "channel_id"),
    Index(None, "civil_code"),
)

platforms = Table(
    "platforms",
    metadata,
    Column("platform_id", String(20), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("enabled", Boolean, nullable=False, default=True),
    Column(
        "settings", JSON, nullable=False
    ),  # model.Platform without the three columns above and the password
    Column(
        "password", String(255), nullable=False, default=""
    ),  # needed in clear: the upper's realm is only known when asked
)

shares = Table(
    "shares",
    metadata,
    Column(
        "platform_id", String(20), ForeignKey("platforms.platform_id", ondelete="CASCADE"), primary_key=True
    ),
    Column("device_id", String(20), primary_key=True),
    Column("channel_id", String(20), primary_key=True),
    Column("exported_id", String(20), nullable=False),
    Index(None, "platform_id", "exported_id"),  # not unique: two ways to one camera share one code
)

inputs = (
    Table(  # cameras and files that are no GB/T 28181 devices; each is a channel of our own virtual device
        "inputs",
        metadata,
        Column("channel_id", String(20), primary_key=True),
        Column("device_id", String(20), nullable=False),
        Column("kind", String(16), nullable=False),  # rtsp | file
        Column("name", String(255), nullable=False),
        Column("url", Text, nullable=False),
        Column("username", String(128), nullable=False, default=""),
        Column(
            "password", String(255), nullable=False, default=""
        ),  # needed in clear: the camera asks for a digest
        Column("enabled", Boolean, nullable=False, default=True),
        Column("settings", JSON, nullable=False),  # what else gateway.services.inputs.Input holds
    )
)

journal = Table(  # dialogs and subscriptions that must be ended or taken up again after a crash
    "journal",
    metadata,
    Column("kind", String(32), primary_key=True),  # invite | subscription | upper_subscription
    Column("key", String(255), primary_key=True),
    Column("state", JSON, nullable=False),
    Column("written_at", DateTime(timezone=True), nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("username", String(64), primary_key=True),
    Column("password_hash", String(255), nullable=False),
    Column("role", String(16), nullable=False),  # administrator | operator | viewer
    Column("enabled", Boolean, nullable=False, default=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
)

web_sessions = Table(
    "web_sessions",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the cookie value
    Column("username", String(64), ForeignKey("users.username", ondelete="CASCADE"), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("token_id", String(16), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("last_used_at", DateTime(timezone=True)),
)

audit = Table(
    "audit",
    metadata,
    Column("audit_id", Integer, primary_key=True, autoincrement=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("who", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(128), nullable=False),
    Column("result", String(64), nullable=False),
    Column("detail", Text, nullable=False, default=""),
    Index(None, "at"),
)

recording_segments = (
    Table(  # one row per recorded file; healed from the files themselves (services/recording_healing.py)
        "recording_segments",
        metadata,
        Column("segment_id", String(64), primary_key=True),
        Column("recording_id", String(64), nullable=False),
        Column("device_id", String(20), nullable=False),
        Column("channel_id", String(20), nullable=False),
        Column("disk_id", String(64), nullable=False),
        Column("path", String(255), nullable=False),
        Column("kind", String(16), nullable=False),  # continuous | event | manual
        Column("storage_class", String(32), nullable=False),
        Column("start_s", Float(53), nullable=False),  # UTC unix seconds
        Column("end_s", Float(53), nullable=False),
        Column("bytes", BigInteger, nullable=False, default=0),
        Column("frames", Integer, nullable=False, default=0),
        Column("video_codec", String(16), nullable=False, default=""),
        Column("audio_codec", String(16), nullable=False, default=""),
        Column("width", Integer, nullable=False, default=0),
        Column("height", Integer, nullable=False, default=0),
        Column("complete", Boolean, nullable=False, default=False),
        Column("cause", String(32), nullable=False, default=""),
        Column("locked", Boolean, nullable=False, default=False),  # evidence: retention leaves it
        Column("local", Boolean, nullable=False, default=True),  # the file is on its disk
        Column("remote_key", String(255), nullable=False, default=""),  # object name when uploaded
        Index(None, "device_id", "channel_id", "start_s"),
        Index(None, "storage_class", "start_s"),
        Index(None, "disk_id", "start_s"),
        Index(None, "start_s"),
        Index(None, "complete"),
    )
)

recording_rules = (
    Table(  # what is recorded when, and how long it is kept: by channel, device, area or for all
        "recording_rules",
        metadata,
        Column("scope", String(16), primary_key=True),  # channel | device | area | default
        Column("key", String(64), primary_key=True),
        Column("settings", JSON, nullable=False),  # gateway.services.recording_plan.Rule
    )
)

recording_gaps = Table(  # when a channel should have been recorded and was not
    "recording_gaps",
    metadata,
    Column("gap_id", Integer, primary_key=True, autoincrement=True),
    Column("device_id", String(20), nullable=False),
    Column("channel_id", String(20), nullable=False),
    Column("start_s", Float(53), nullable=False),
    Column("end_s", Float(53)),  # empty: still so
    Column("cause", String(32), nullable=False),
    Index(None, "device_id", "channel_id", "start_s"),
)

recording_marks = Table(  # events and evidence on the timeline
    "recording_marks",
    metadata,
    Column("mark_id", String(16), primary_key=True),
    Column("device_id", String(20), nullable=False),
    Column("channel_id", String(20), nullable=False),
    Column("kind", String(16), nullable=False),  # event | evidence
    Column("start_s", Float(53), nullable=False),
    Column("end_s", Float(53), nullable=False),
    Column("label", String(255), nullable=False, default=""),
    Column("locked", Boolean, nullable=False, default=False),
    Column("who", String(128), nullable=False, default=""),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Index(None, "device_id", "channel_id", "start_s"),
)

alarms = Table(  # what devices raised, with the XML it came in; kept for alarms.keep_days
    "alarms",
    metadata,
    Column("alarm_id", String(32), primary_key=True),
    Column("device_id", String(32), nullable=False),
    Column("channel_id", String(32), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("last_at", DateTime(timezone=True), nullable=False),
    Column("alarm_at", DateTime(timezone=True)),
    Column("priority", Integer),
    Column("method", Integer),
    Column("alarm_type", Integer),
    Column("event_type", Integer),
    Column("description", Text, nullable=False, default=""),
    Column("longitude", Float(53)),
    Column("latitude", Float(53)),
    Column("extra", JSON, nullable=False),
    Column("via", String(8), nullable=False),  # message | notify
    Column("clock_fault", Boolean, nullable=False, default=False),
    Column("repeats", Integer, nullable=False, default=0),
    Column("suppressed", Integer, nullable=False, default=0),
    Column("raw", Text, nullable=False, default=""),
    Column("camera_id", String(32), nullable=False, default=""),
    Column("snapshot", String(255), nullable=False, default=""),
    Column("acknowledged_at", DateTime(timezone=True)),
    Column("acknowledged_by", String(128), nullable=False, default=""),
    Column("note", Text, nullable=False, default=""),
    Column("reset", String(64), nullable=False, default=""),
    Index(None, "received_at"),
    Index(None, "device_id", "received_at"),
    Index(None, "channel_id", "received_at"),
)

positions = Table(  # tracks of what moves; kept for positions.keep_days
    "positions",
    metadata,
    Column("device_id", String(32), primary_key=True),
    Column("channel_id", String(32), primary_key=True),
    Column("at", DateTime(timezone=True), primary_key=True),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("longitude", Float(53), nullable=False),
    Column("latitude", Float(53), nullable=False),
    Column("speed_kmh", Float),
    Column("direction_deg", Float),
    Column("altitude_m", Float),
    Column("height_m", Float),
    Column("faults", String(128), nullable=False, default=""),
    Column("via", String(8), nullable=False, default="notify"),
    Index(None, "received_at"),
)

subscription_wishes = (
    Table(  # subscriptions that operators asked for or do not want, against the settings' defaults
        "subscription_wishes",
        metadata,
        Column("device_id", String(32), primary_key=True),
        Column("kind", String(16), primary_key=True),  # Catalog | Alarm | MobilePosition | PTZPosition
        Column("target_id", String(32), primary_key=True),
        Column("enabled", Boolean, nullable=False),
        Column("interval_s", Integer),
    )
)

device_snapshot_jobs = Table(  # orders to devices to take pictures and upload them (2022 9.14)
    "device_snapshot_jobs",
    metadata,
    Column("job_id", String(16), primary_key=True),
    Column("device_id", String(32), nullable=False),
    Column("channel_id", String(32), nullable=False),
    Column("session_id", String(128), nullable=False, unique=True),
    Column("asked", Integer, nullable=False),
    Column("interval_s", Integer, nullable=False),
    Column("state", String(16), nullable=False),  # gateway.services.device_snapshots_job.JobState
    Column("detail", Text, nullable=False, default=""),
    Column("who", String(128), nullable=False, default=""),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("ends_at", DateTime(timezone=True), nullable=False),  # the upload address is good until then
    Column("ended_at", DateTime(timezone=True)),
    Column("reported", JSON, nullable=False),  # SnapShotFileIDs of the device's notice
    Index(None, "created_at"),
    Index(None, "device_id", "created_at"),
)

device_snapshots = Table(  # pictures that devices uploaded; kept for snapshots.keep_days
    "device_snapshots",
    metadata,
    Column("picture_id", String(16), primary_key=True),
    Column("job_id", String(16), nullable=False),
    Column("device_id", String(32), nullable=False),
    Column("channel_id", String(32), nullable=False),
    Column("name", String(64), nullable=False),  # of the file, without its ending
    Column("sent_name", String(255), nullable=False, default=""),  # as the device called it
    Column("media_type", String(32), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("taken_at", DateTime(timezone=True)),  # by the file's name
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("warning", String(255), nullable=False, default=""),
    Index(None, "job_id"),
    Index(None, "received_at"),
    Index(None, "channel_id", "received_at"),
)

video_upload_rules = Table(  # what a device's VideoUploadNotify sets going, against the settings' default
    "video_upload_rules",
    metadata,
    Column("device_id", String(32), primary_key=True),
    Column("action", String(8), nullable=False),  # off | keep | record
    Column("keep_s", Integer, nullable=False),
)

note_keys = Table(  # keys with which single peers sign their messages (Note header)
    "note_keys",
    metadata,
    Column("role", String(8), primary_key=True),  # device | upper
    Column("peer_id", String(32), primary_key=True),
    Column("secret", String(512), nullable=False),  # needed in clear: it is hashed into each message
    Column("settings", JSON, nullable=False),  # what else gateway.services.note_check.NoteRule holds
)
