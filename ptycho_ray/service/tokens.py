"""Bearer tokens. Only their SHA-256 is stored: a token is 256 random bits, so no slower hash is needed. Roles are
nested: admin includes submit, submit includes read. Jobs belong to the *name* of a token, so a new token of the same
name can replace the old one (rotation) while both are valid.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from ptycho_ray.errors import InputError
from ptycho_ray.service.database import tokens as table

ROLES = ("read", "submit", "admin")
PREFIX = "ptycho_"


@dataclass(frozen=True)
class Token:
    """The identity behind a token, without the token itself."""

    id: str
    name: str
    role: str
    created: float
    expires: float | None

    def may(self, role: str) -> bool:
        """Whether this role includes ``role``."""
        return ROLES.index(self.role) >= ROLES.index(role)


#: The caller of a service that asks for no token.
LOCAL = Token("local", "local", "admin", 0.0, None)


class TokenStore:
    """The tokens of one service."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine, self.clock = engine, clock

    def add(self, name: str, role: str, days: float | None = None) -> tuple[Token, str]:
        """A new token and its text, which is shown only now.

        Raises:
            InputError: no such role, or a name that is empty or too long.
        """
        if role not in ROLES:
            raise InputError(field="role", found=role, expected=" or ".join(ROLES))
        if not 0 < len(name) <= 100 or not name.isprintable():
            raise InputError(field="name", found=repr(name[:120]), expected="1 to 100 printable characters")
        text = PREFIX + secrets.token_urlsafe(32)
        now = self.clock()
        expires = None if days is None else now + days * 86400
        token = Token(secrets.token_hex(8), name, role, now, expires)
        with self.engine.begin() as connection:
            connection.execute(table.insert().values(vars(token) | {"sha256": _digest(text)}))
        return token, text

    def find(self, text: str) -> Token | None:
        """The token that this text is, unless it has expired."""
        with self.engine.connect() as connection:
            row = connection.execute(table.select().where(table.c.sha256 == _digest(text))).mappings().first()
        if row is None or (row["expires"] is not None and row["expires"] < self.clock()):
            return None
        return Token(*(row[name] for name in ("id", "name", "role", "created", "expires")))

    def all(self) -> list[Token]:
        """Every token, the oldest first."""
        with self.engine.connect() as connection:
            rows = connection.execute(table.select().order_by(table.c.created)).mappings()
            return [Token(*(row[name] for name in ("id", "name", "role", "created", "expires"))) for row in rows]

    def remove(self, token_id: str) -> bool:
        """Revoke a token; False if there is none of this id."""
        with self.engine.begin() as connection:
            return bool(connection.execute(table.delete().where(table.c.id == token_id)).rowcount)

    def rotate(self, token_id: str, overlap_s: float = 3600.0) -> tuple[Token, str]:
        """A new token of the same name and role; the old one works for ``overlap_s`` more."""
        old = next((token for token in self.all() if token.id == token_id), None)
        if old is None:
            raise InputError(field="id", found=token_id, expected="the id of a token")
        days = None if old.expires is None else (old.expires - old.created) / 86400
        until = min(old.expires or float("inf"), self.clock() + overlap_s)
        with self.engine.begin() as connection:
            connection.execute(table.update().where(table.c.id == token_id).values(expires=until))
        return self.add(old.name, old.role, days)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
