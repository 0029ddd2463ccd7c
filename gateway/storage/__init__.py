"""Storage: SQLAlchemy 2 async over SQLite (or another database by URL). One file per table group."""
