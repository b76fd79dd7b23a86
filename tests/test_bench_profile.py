import pytest

from apv_edu.bench.profile import KINDS, bench_profile, kind_of


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::addmm", "products"),
        ("aten::mm", "products"),
        ("aten::convolution_backward", "convolutions"),
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::elu_", "activations"),
        ("aten::add_", "copies and sums"),
        ("aten::_fused_adamw_", "optimiser"),
        ("aten::_foreach_norm", "optimiser"),
        ("aten::uniform_", "noise"),
        ("aten::commute", "everything else"),
    ],
)
def test_kinds(operation, kind):
    assert kind_of(operation) == kind


def test_rows():
    rows = bench_profile(("smoke",), batch=2, pretrain_length=3, finetune_length=8)
    assert len(rows) == 2 * (len(KINDS) + 2)
    for update in ("pre-training", "fine-tuning"):
        shares = {row["kind"]: row["share"] for row in rows if row["update"] == update}
        assert sum(shares.values()) == pytest.approx(1)
        assert all(shares[kind] > 0 for kind in KINDS)
