"""Orders for pictures to devices, the pictures they uploaded, and what their wish to be fetched sets going."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_snapshot_jobs",
        sa.Column("job_id", sa.String(length=16), nullable=False),
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("channel_id", sa.String(length=32), nullable=False),
        sa.Column("session_id", sa.String(length=128), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("interval_s", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("reported", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_device_snapshot_jobs")),
        sa.UniqueConstraint("session_id", name=op.f("uq_device_snapshot_jobs_session_id")),
    )
    op.create_index(op.f("ix_device_snapshot_jobs_created_at"), "device_snapshot_jobs", ["created_at"])
    op.create_index(
        op.f("ix_device_snapshot_jobs_device_id_created_at"),
        "device_snapshot_jobs",
        ["device_id", "created_at"],
    )
    op.create_table(
        "device_snapshots",
        sa.Column("picture_id", sa.String(length=16), nullable=False),
        sa.Column("job_id", sa.String(length=16), nullable=False),
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("channel_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sent_name", sa.String(length=255), nullable=False),
        sa.Column("media_type", sa.String(length=32), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True)),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("warning", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("picture_id", name=op.f("pk_device_snapshots")),
    )
    op.create_index(op.f("ix_device_snapshots_job_id"), "device_snapshots", ["job_id"])
    op.create_index(op.f("ix_device_snapshots_received_at"), "device_snapshots", ["received_at"])
    op.create_index(
        op.f("ix_device_snapshots_channel_id_received_at"), "device_snapshots", ["channel_id", "received_at"]
    )
    op.create_table(
        "video_upload_rules",
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("action", sa.String(length=8), nullable=False),
        sa.Column("keep_s", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_video_upload_rules")),
    )


def downgrade() -> None:
    op.drop_table("video_upload_rules")
    op.drop_table("device_snapshots")
    op.drop_table("device_snapshot_jobs")
