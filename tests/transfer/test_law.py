"""Laws of the loss: known laws are recovered, and no law is more certain than its losses."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from completedp.cli.app import main
from completedp.errors import UserError
from transfer.law import Law, draw, extrapolate, fit, of_speedup, redrawn
from transfer.measuring.speedup import read_document

LAW = Law(base=1e12, E=1.2, A=(0.9, 0.8), gamma=(0.10, 0.12))


def document(
    noise: float,
    scales: tuple[float, ...] = (1, 4, 16, 64, 256),
    seeds: int = 3,
    seed: int = 1,
    shared: float = 0.0,
) -> Any:
    """`noise` is each run's own, `shared` a seed's on both arms."""
    rng = np.random.default_rng(seed)
    both = {(scale, s): float(rng.normal(0, shared)) for scale in scales for s in range(seeds)}
    rows = [
        {
            "flops": int(LAW.base * scale),
            "losses": {
                arm: {
                    "1.0": {
                        str(s): float(LAW.loss(i, LAW.base * scale) + rng.normal(0, noise))
                        + both[scale, s]
                        for s in range(seeds)
                    }
                }
                for i, arm in enumerate(("baseline", "tuned"))
            },
        }
        for scale in scales
    ]
    return {"kind": "speedup", "rows": rows}


def test_a_known_law_is_recovered() -> None:
    law = fit(of_speedup(document(noise=1e-6)))
    assert pytest.approx(LAW.E, abs=0.01) == law.E
    assert law.gamma == pytest.approx(LAW.gamma, rel=0.02)
    for arm in (0, 1):
        assert law.loss(arm, 1e18) == pytest.approx(LAW.loss(arm, 1e18), abs=2e-3)
    assert law.saved(1e16) == pytest.approx(LAW.saved(1e16), rel=0.01)


def test_saved_is_where_the_baseline_is_as_good() -> None:
    times = LAW.saved(1e15)
    assert LAW.loss(0, 1e15 * times) == pytest.approx(float(LAW.loss(1, 1e15)))
    assert times > 1


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """The truth is beyond the largest measured scale; each fit has its own draw of the seeds' noise."""
    held, widths = [], []
    for seed in range(12):
        data = of_speedup(document(noise=0.005, seed=seed))
        near, far = (extrapolate(data, flops)["loss"]["tuned"] for flops in (1e15, 1e17))
        held.append(near["low"] < float(LAW.loss(1, 1e15)) < near["high"])
        widths.append((near["high"] - near["low"], far["high"] - far["low"]))
    assert np.mean(held) > 0.75
    assert all(near < far for near, far in widths)


def test_what_a_seed_adds_to_both_arms_is_no_doubt_about_their_difference() -> None:
    held, paired = [], []
    for seed in range(12):
        data = of_speedup(document(noise=0.002, shared=0.01, seed=seed))
        assert data.shared > 0.7
        found = extrapolate(data, 1e15)["difference"]
        held.append(found["low"] < float(LAW.loss(1, 1e15) - LAW.loss(0, 1e15)) < found["high"])
        apart = dataclasses.replace(data, shared=0.0)
        alone = extrapolate(apart, 1e15)["difference"]
        paired.append((found["high"] - found["low"]) / (alone["high"] - alone["low"]))
    assert np.mean(held) > 0.75
    assert np.mean(paired) < 0.6


def test_two_scales_leave_open_what_no_model_learns() -> None:
    """The truth lies in the intervals, which are wider than those of five scales."""
    two, five = (of_speedup(document(noise=1e-4, scales=s)) for s in ((1, 4), (1, 4, 16, 64, 256)))
    for flops in (1e13, 1e14, 1e15):
        loss, sure = (extrapolate(data, flops)["loss"]["tuned"] for data in (two, five))
        assert loss["low"] < float(LAW.loss(1, flops)) < loss["high"]
        assert sure["high"] - sure["low"] < loss["high"] - loss["low"]
    assert len({law.E for law in redrawn(two)}) > 100


def test_too_little_to_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 scales have"):
        of_speedup(document(noise=0.01, scales=(4,)))
    with pytest.raises(UserError, match="0 scales have"):
        of_speedup(document(noise=0.01, seeds=1))
    with pytest.raises(UserError, match="--flops is nan"):
        extrapolate(of_speedup(document(noise=0.01)), float("nan"))
    one = {"1.0": {"0": 2.0, "1": 2.1}}
    whole = {"baseline": one, "tuned": one}
    lost = {"baseline": one, "tuned": {"1.0": {"0": None, "1": "x"}}}
    for damaged in (
        {},
        {"rows": 3},
        {"rows": [{"flops": 1}]},
        {"rows": [{"flops": 1, "losses": lost}]},
        {"rows": [{"flops": "abc", "losses": whole}]},
        {"rows": [{"flops": 0, "losses": whole}]},
    ):
        with pytest.raises(UserError, match="is damaged"):
            of_speedup(damaged)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other\.json: not a file of"):
        read_document(tmp_path / "other.json")


def test_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, figure = tmp_path / "speedup.json", tmp_path / "fit.png"
    path.write_text(json.dumps(document(noise=0.004)))
    command = ["completedp", "transfer-fit", str(path), "--flops", "1e16", "--figure", str(figure)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "39.1 x the largest budget measured" in capsys.readouterr().out
    assert figure.stat().st_size > 10_000


def changed(place: str, value: Any) -> Any:
    made = document(noise=0.004)
    *path, last = place.split("/")
    holder = made
    for name in path:
        holder = holder[int(name)] if name.isdecimal() else holder[name]
    if isinstance(holder, list):
        holder[int(last)] = value
    else:
        holder[last] = value
    return made


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("rows", {}, "rows is {}; expected a list"),
        ("rows/0", 3, "rows.0: expected an object, got 3"),
        ("rows/1/flops", "1e12", "rows.1: flops is '1e12'; expected a number of 1 to"),
        ("rows/1/flops", True, "rows.1: flops is True"),
        ("rows/1/flops", -1e12, "rows.1: flops is -1"),
        ("rows/1/flops", 1e300, "rows.1: flops is 1e.300"),
        ("rows/1/flops", 1e-300, "rows.1: flops is 1e-300"),
        ("rows/1/flops", 10**400, "rows.1: flops is"),
        ("rows/1/losses", [], r"rows.1: losses is \[\]"),
        ("rows/1/losses/tuned", None, "rows.1.losses.tuned: expected an object, got None"),
        ("rows/1/losses/tuned/1.0", [1], "rows.1.losses.tuned.1.0: expected an object"),
        ("rows/1/losses/tuned/1.0/0", "low", "tuned.1.0: 0 is 'low'; expected a loss of"),
        ("rows/1/losses/tuned/1.0/0", None, "tuned.1.0: 0 is None"),
        ("rows/1/losses/tuned/1.0/0", 0.0, "tuned.1.0: 0 is 0.0"),
        ("rows/1/losses/tuned/1.0/0", -1.5, "tuned.1.0: 0 is -1.5"),
        ("rows/1/losses/tuned/1.0/0", 1e300, "tuned.1.0: 0 is 1e.300"),
        ("rows/1/losses/tuned/1.0/0", float("nan"), "tuned.1.0: 0 is nan"),
    ],
)
def test_a_damaged_file_is_refused_by_its_place(place: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"^the speed-up's file is damaged .*{said}.*make it again"):
        of_speedup(changed(place, value))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("rows/1/losses/tuned/1.0/0", 1e9),
        ("rows/1/losses/tuned/1.0/0", 1e-9),
        ("rows/4/flops", 1e100),
        ("rows/4/flops", 1),
        ("rows/4/flops", 1e12 * (1 + 1e-15)),
    ],
)
@pytest.mark.parametrize("flops", [1, 1e16, 1e100])
def test_absurd_numbers_give_finite_ones_or_none(
    place: str, value: float, flops: float, tmp_path: Path
) -> None:
    """Nothing overflows on the way: warnings are errors here."""
    data = of_speedup(changed(place, value))
    with contextlib.suppress(UserError):  # that no law fits
        json.dumps(extrapolate(data, flops), allow_nan=False)
        draw(data, flops, tmp_path / "fit.png")


def test_losses_without_a_spread_or_with_too_many_scales_are_refused() -> None:
    with pytest.raises(UserError, match="all seeds of an arm have one loss at every scale"):
        of_speedup(document(noise=0.0))
    with pytest.raises(UserError, match="51 scales have two or more whole seeds; expected 2 to 50"):
        of_speedup(document(noise=0.01, scales=tuple(range(1, 52))))
    twice = document(noise=0.01, scales=(1, 4, 4))
    with pytest.raises(UserError, match=r"2 scales have .*each once"):
        of_speedup(twice)
    for flops in (0.0, 1e300, float("inf"), -1.0):
        with pytest.raises(UserError, match="--flops is"):
            extrapolate(of_speedup(document(noise=0.01)), flops)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"[]", "expected an object"),
        (b"[" * 100_000, "levels deep"),
        (b"\xff", "not UTF-8"),
        (b'{"kind": "plan"}', "not a file of `completedp speedup`"),
        (b'{"kind": "speedup", "rows": [1e400]}', "beyond every float"),
    ],
)
def test_what_is_no_document_is_refused_with_its_file(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "speedup.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"speedup\.json: .*{said}"):
        read_document(tmp_path / "speedup.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_document(tmp_path)
