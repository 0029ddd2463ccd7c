"""Alarms, positions, and which subscriptions operators asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alarms",
        sa.Column("alarm_id", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("channel_id", sa.String(length=32), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("alarm_at", sa.DateTime(timezone=True)),
        sa.Column("priority", sa.Integer()),
        sa.Column("method", sa.Integer()),
        sa.Column("alarm_type", sa.Integer()),
        sa.Column("event_type", sa.Integer()),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("longitude", sa.Float(53)),
        sa.Column("latitude", sa.Float(53)),
        sa.Column("extra", sa.JSON(), nullable=False),
        sa.Column("via", sa.String(length=8), nullable=False),
        sa.Column("clock_fault", sa.Boolean(), nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("suppressed", sa.Integer(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("camera_id", sa.String(length=32), nullable=False),
        sa.Column("snapshot", sa.String(length=255), nullable=False),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True)),
        sa.Column("acknowledged_by", sa.String(length=128), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("reset", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("alarm_id", name=op.f("pk_alarms")),
    )
    op.create_index(op.f("ix_alarms_received_at"), "alarms", ["received_at"])
    op.create_index(op.f("ix_alarms_device_id_received_at"), "alarms", ["device_id", "received_at"])
    op.create_index(op.f("ix_alarms_channel_id_received_at"), "alarms", ["channel_id", "received_at"])
    op.create_table(
        "positions",
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("channel_id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("longitude", sa.Float(53), nullable=False),
        sa.Column("latitude", sa.Float(53), nullable=False),
        sa.Column("speed_kmh", sa.Float()),
        sa.Column("direction_deg", sa.Float()),
        sa.Column("altitude_m", sa.Float()),
        sa.Column("height_m", sa.Float()),
        sa.Column("faults", sa.String(length=128), nullable=False),
        sa.Column("via", sa.String(length=8), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "channel_id", "at", name=op.f("pk_positions")),
    )
    op.create_index(op.f("ix_positions_received_at"), "positions", ["received_at"])
    op.create_table(
        "subscription_wishes",
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("target_id", sa.String(length=32), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("interval_s", sa.Integer()),
        sa.PrimaryKeyConstraint("device_id", "kind", "target_id", name=op.f("pk_subscription_wishes")),
    )


def downgrade() -> None:
    op.drop_table("subscription_wishes")
    op.drop_table("positions")
    op.drop_table("alarms")
