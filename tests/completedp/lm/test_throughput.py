"""Speed, and its share of a card's peak."""

import pytest
import torch

from completedp.lm.throughput import Speed, Speedometer, peak_flops

FLOPS = 123_456  # of one token


@pytest.mark.parametrize(
    ("name", "bfloat16", "float32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 19.5e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12, 66.9e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA H100 NVL", 835e12, 60e12),
        ("NVIDIA H200", 989.4e12, 66.9e12),
        ("NVIDIA L4", 121e12, 30.3e12),
        ("NVIDIA L40S", 362e12, 91.6e12),
        ("NVIDIA L40", None, None),
        ("NVIDIA H20", None, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, None),
        ("NVIDIA", None, None),
        ("", None, None),
    ],
)
def test_peaks_by_the_name_of_the_card(
    name: str, bfloat16: float | None, float32: float | None
) -> None:
    assert peak_flops(name, "bfloat16") == bfloat16
    assert peak_flops(name, "float32") == float32
    if float32 is not None:
        tf32 = peak_flops(name, "float32", tf32=True)
        assert tf32 is not None
        assert float32 < tf32 < (bfloat16 or 0)


def test_speed_on_a_cpu_has_no_share() -> None:
    meter = Speedometer(
        flops_per_token=FLOPS, precision="float32", device=torch.device("cpu"), processes=2
    )
    speed = meter.speed(6000, 2.0)
    assert speed.tokens_per_second == 3000
    assert speed.flops_per_second == FLOPS * 3000
    assert speed.mfu is None
    assert "mfu" not in speed.metrics()
    assert str(speed).startswith("3,000 tokens/s, ")


def test_the_share_is_that_of_all_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 PCIe")
    meter = Speedometer(
        flops_per_token=FLOPS, precision="bfloat16", device=torch.device("cuda"), processes=4
    )
    tokens = 10**9
    speed = meter.speed(tokens, 0.5)
    assert speed.mfu == pytest.approx(FLOPS * tokens / 0.5 / (4 * 756e12))
    assert str(speed).endswith(f"MFU {speed.mfu:.1%}")
    assert Speed.of({**speed.metrics(), "loss": 1.0}) == speed
