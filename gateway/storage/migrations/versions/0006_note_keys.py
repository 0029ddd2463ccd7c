"""Keys with which single peers sign their messages (Note header)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "note_keys",
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("peer_id", sa.String(length=32), nullable=False),
        sa.Column("secret", sa.String(length=512), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("role", "peer_id", name=op.f("pk_note_keys")),
    )


def downgrade() -> None:
    op.drop_table("note_keys")
