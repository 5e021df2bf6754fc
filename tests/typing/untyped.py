"""Migrations without annotations, as most are: checked by mypy and basedpyright, never executed."""
# mypy: allow-untyped-defs, allow-untyped-decorators
# pyright: basic
# ruff: noqa: ANN001, ANN002, ANN201 - that is the point

from functools import partial

from quaestor import MigrationRegistry

registry = MigrationRegistry()


@registry.register("a")
def a(db):
    """Take the database."""
    db.users.create_index("email")


@registry.register("b", depends_on=["a"])
def b(db, context):
    """Take the context too."""
    context.for_each_batch(db.users, lambda batch: db.users.insert_many(batch))
    return db


@registry.register("c")
async def c(db):
    """Take the database, async."""
    await db.users.create_index("email")


@registry.register("d")
async def d(db, context):
    """Take the context too, async."""
    async for batch in context.batches(db.users):
        print(batch)


@registry.register_rollback("d")
async def undo_d(db, context, verbose=False):
    """Have an argument with a default."""
    return await context.for_each_batch(db.users, print, verbose)


@registry.register("e")
def e(*args):
    """Take anything."""
    print(args)


registry.register("f")(lambda db: db.users.drop())
registry.register("g")(lambda db, context: context.progress(db.users.count_documents({})))
registry.register("h")(partial(b, context=None))
registry.register_rollback("h")(partial(c))
