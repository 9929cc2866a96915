"""The table of a plan."""

from rich.console import Console
from rich.table import Table

from balora_jax.reporting.console import show_note
from balora_jax.runs.plan.estimate import Estimate, gibibytes

# Names of the parts of the memory, as a reader knows them.
PARTS = {
    "base": "base weights",
    "trained": "trained weights",
    "optimizer": "optimizer",
    "batch": "batch",
    "temporaries": "temporaries",
}
BOUNDS = {"products": "products", "memory": "reading the weights", "links": "links"}


def show(console: Console, plan: Estimate) -> None:
    """Print a plan.

    Args:
      console: where to print.
      plan: the estimate.
    """
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("devices", f"{plan.devices} x {plan.device} ({mesh}), {plan.how}")
    table.add_row(
        "update",
        f"{plan.batch_size} rows of {plan.length} tokens in {plan.accumulation} micro-batches, "
        f"remat {plan.remat}",
    )
    for name, size in plan.memory.items():
        table.add_row(PARTS[name], gibibytes(size))
    limit = "" if plan.memory_limit is None else f" of {gibibytes(plan.memory_limit)}"
    fits = {True: ", which fits", False: ", which does not fit", None: ""}[plan.fits]
    table.add_row("a device needs", f"{gibibytes(plan.memory_total)}{limit}{fits}")
    share = plan.operations / plan.floor
    table.add_row(
        "operations",
        f"{plan.operations:.3g} an update, {share:.2f} x the products of the layers alone",
    )
    if plan.bytes_sent is not None:
        sent = ", ".join(f"{kind} {gibibytes(size)}" for kind, size in plan.bytes_sent.items())
        table.add_row("a device sends", sent or "nothing")
    if plan.seconds is not None:
        bounds = ", ".join(f"{BOUNDS[name]} {time:.3f} s" for name, time in plan.seconds.items())
        table.add_row("an update at least", bounds)
        table.add_row(
            "at most",
            f"{plan.tokens_per_second:,.0f} tokens/s, {plan.utilization:.0%} of the peak (MFU)",
        )
    if plan.run_hours is not None:
        table.add_row(
            "the run at least", f"{plan.run_hours:.2f} hours, {plan.device_hours:.2f} device-hours"
        )
    table.add_row("compiled in", f"{plan.compile_seconds:.1f} s")
    console.print(table, highlight=False)
    show_note(console, "every row is counted at data.max_length; packed or shorter ones take less")
