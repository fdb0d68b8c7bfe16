"""The store's tables. A change of them is a further step of MIGRATIONS: no file that exists is forgotten."""

_FIRST = (
    "CREATE TABLE secrets(name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    "CREATE TABLE media(id TEXT PRIMARY KEY, type TEXT NOT NULL, data BLOB NOT NULL)",
    """CREATE TABLE items(
      id INTEGER PRIMARY KEY,
      kind TEXT NOT NULL,
      prompt TEXT NOT NULL,
      answers TEXT NOT NULL,
      picture TEXT REFERENCES media(id),
      sound TEXT REFERENCES media(id),
      expected TEXT,
      wanted INTEGER NOT NULL,
      priority REAL NOT NULL,
      extras TEXT NOT NULL
    )""",
    "CREATE TABLE raters(id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
    """CREATE TABLE leases(
      item INTEGER NOT NULL REFERENCES items(id),
      rater INTEGER NOT NULL REFERENCES raters(id),
      shown TEXT NOT NULL,
      strategy TEXT NOT NULL,
      until REAL NOT NULL,
      PRIMARY KEY (item, rater)
    ) WITHOUT ROWID""",
    """CREATE TABLE judgements(
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      key TEXT NOT NULL UNIQUE,
      rater INTEGER NOT NULL REFERENCES raters(id),
      item INTEGER NOT NULL REFERENCES items(id),
      answer TEXT NOT NULL,
      shown TEXT NOT NULL,
      strategy TEXT NOT NULL,
      seconds REAL NOT NULL,
      time REAL NOT NULL,
      undoes INTEGER UNIQUE REFERENCES judgements(id)
    )""",
    "CREATE INDEX judgements_of_rater ON judgements(rater, item)",
    """CREATE VIEW standing AS
      SELECT * FROM judgements WHERE undoes IS NULL
      AND NOT EXISTS (SELECT 1 FROM judgements AS undo WHERE undo.undoes = judgements.id)""",
    """CREATE TRIGGER judgements_stay BEFORE DELETE ON judgements
      BEGIN SELECT RAISE(ABORT, 'judgements are never deleted'); END""",
    """CREATE TRIGGER judgements_do_not_change BEFORE UPDATE ON judgements
      BEGIN SELECT RAISE(ABORT, 'judgements are never changed'); END""",
)

# The name of the store itself, so that a page knows answers to another store's items from its own.
_SECOND = ("INSERT INTO secrets VALUES ('store', randomblob(8))",)

# Step i takes a file from schema i to schema i + 1; a file's schema is its user_version.
MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _SECOND)
