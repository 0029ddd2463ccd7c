"""Recordings: the index of recorded files, rules (plans and storage classes), gaps, marks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recording_segments",
        sa.Column("segment_id", sa.String(length=64), nullable=False),
        sa.Column("recording_id", sa.String(length=64), nullable=False),
        sa.Column("device_id", sa.String(length=20), nullable=False),
        sa.Column("channel_id", sa.String(length=20), nullable=False),
        sa.Column("disk_id", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("storage_class", sa.String(length=32), nullable=False),
        sa.Column("start_s", sa.Float(precision=53), nullable=False),
        sa.Column("end_s", sa.Float(precision=53), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Column("video_codec", sa.String(length=16), nullable=False),
        sa.Column("audio_codec", sa.String(length=16), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("cause", sa.String(length=32), nullable=False),
        sa.Column("locked", sa.Boolean(), nullable=False),
        sa.Column("local", sa.Boolean(), nullable=False),
        sa.Column("remote_key", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("segment_id", name=op.f("pk_recording_segments")),
    )
    for columns in (
        ["device_id", "channel_id", "start_s"],
        ["storage_class", "start_s"],
        ["disk_id", "start_s"],
        ["start_s"],
        ["complete"],
    ):
        name = op.f("ix_recording_segments_" + "_".join(columns))
        op.create_index(name, "recording_segments", columns, unique=False)
    op.create_table(
        "recording_rules",
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_recording_rules")),
    )
    op.create_table(
        "recording_gaps",
        sa.Column("gap_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("device_id", sa.String(length=20), nullable=False),
        sa.Column("channel_id", sa.String(length=20), nullable=False),
        sa.Column("start_s", sa.Float(precision=53), nullable=False),
        sa.Column("end_s", sa.Float(precision=53), nullable=True),
        sa.Column("cause", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("gap_id", name=op.f("pk_recording_gaps")),
    )
    op.create_table(
        "recording_marks",
        sa.Column("mark_id", sa.String(length=16), nullable=False),
        sa.Column("device_id", sa.String(length=20), nullable=False),
        sa.Column("channel_id", sa.String(length=20), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("start_s", sa.Float(precision=53), nullable=False),
        sa.Column("end_s", sa.Float(precision=53), nullable=False),
        sa.Column("label", sa.String(length=255), nullable=False),
        sa.Column("locked", sa.Boolean(), nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("mark_id", name=op.f("pk_recording_marks")),
    )
    for table in ("recording_gaps", "recording_marks"):
        columns = ["device_id", "channel_id", "start_s"]
        op.create_index(op.f(f"ix_{table}_" + "_".join(columns)), table, columns, unique=False)


def downgrade() -> None:
    for table in ("recording_marks", "recording_gaps", "recording_rules", "recording_segments"):
        op.drop_table(table)
