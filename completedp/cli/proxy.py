"""The verb `proxy`: can a search tell anything on this proxy?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from completedp.cli import options
from completedp.cli.inspect import Modules
from completedp.cli.output import end_if_missing, number, print_json, print_table, sayer
from completedp.cli.search import configured


def proxy(
    preset: options.Preset = "auto",
    data: options.Data = None,
    model: options.OwnModel = None,
    width: options.Width = None,
    depth: options.Depth = None,
    modules: Modules = None,
    loop: options.OwnLoop = None,
    batches: Annotated[
        Any, options.numbers("Ratios to the preset's batch, 1 among them.")
    ] = "0.5,1,2",
    factors: Annotated[
        Any, options.numbers("Multiples of the carried learning rate.")
    ] = "0.5,0.71,1,1.41",
    seeds: Annotated[int, typer.Option(help="Paired seeds of every configuration.", min=2)] = 3,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    workers: options.Workers = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    run_code: options.RunCode = False,
    root: options.Root = options.DEFAULT_ROOT,
    json: options.Json = False,
) -> None:
    """Measure a proxy: its best batch, how much its seeds differ, and how many trials show an effect.

    Interrupt it and start it again, with more batches, factors or seeds too: finished runs are kept. A search
    on the same model, data and training then warns if the proxy cannot tell what it is asked.
    """
    from completedp.training.sweeps import machine_for

    say = sayer(json)
    chosen = machine_for(device, workers).device
    from search import proxy as measuring

    config, why = configured(preset, chosen, loop, model, width, depth, modules, data)
    say(f"preset {why}")
    document = measuring.measure(
        config,
        batches=batches,
        factors=factors,
        seeds=seeds,
        seed=seed,
        device=chosen,
        workers=workers,
        root=root,
        dry_run=dry_run,
        yes=yes,
        on_line=say,
    )
    if document is None:
        return
    if json:
        print_json(document)
    else:
        _print(document)
    end_if_missing([document["runs_missing"]])
    say(f"wrote {measuring.folder_of(root, document['digest']) / measuring.DOCUMENT}")


def _print(document: dict[str, Any]) -> None:
    print_table(
        "loss by batch and learning rate (nats a token)",
        ["tokens a step", "steps", "lr factor", "mean", "sd of a seed", "seeds", "diverged"],
        [
            [
                str(row["batch"]),
                f"{row['steps']:,}",
                f"{row['factor']:g}",
                "–" if row["mean"] is None else f"{row['mean']:.4f}",
                number(row["sd"]),
                str(row["n"]),
                str(row["diverged"]),
            ]
            for row in document["rows"]
        ],
    )
    for line in document["verdict"] or ():
        print(line)
