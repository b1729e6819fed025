"""One spelling for every card."""

import pytest

from headroom.domain.card_models import is_display, is_mig, label_value, plain_model


@pytest.mark.parametrize(
    ("product", "label"),
    [
        ("NVIDIA A100-SXM4-80GB", "NVIDIA-A100-SXM4-80GB"),
        ("  NVIDIA   L4 ", "NVIDIA-L4"),
        pytest.param("NVIDIA A100-SXM4-40GB MIG 1g.5gb+me", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gbme", id="N13 plus"),
        pytest.param("NVIDIA TITAN X (Pascal)", "NVIDIA-TITAN-X-Pascal", id="N13 brackets"),
        pytest.param("Quadro RTX 6000/8000 \N{REGISTERED SIGN}", "Quadro-RTX-60008000", id="slash and sign"),
        ("AMD_Instinct_MI300X", "AMD_Instinct_MI300X"),
        pytest.param(
            "NVIDIA " + "RTX-" * 20, ("NVIDIA-" + "RTX-" * 20)[:63].rstrip("-"), id="N04 k8s-device-plugin#1876: 63"
        ),
        ("", ""),
    ],
)
def test_a_product_is_spelt_as_in_its_label(product: str, label: str) -> None:
    assert label_value(product) == label
    assert len(label) <= 63
    assert label_value(label) == label


def test_the_mark_of_shared_cards_is_no_part_of_the_model() -> None:
    assert plain_model("Tesla-T4-SHARED") == plain_model("Tesla T4") == "Tesla-T4"


def test_kinds_of_cards_by_name() -> None:
    assert is_display(plain_model("NVIDIA DGX Display"))
    assert not is_display("NVIDIA-L4")
    assert is_mig("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb")
    assert not is_mig("NVIDIA-A100-SXM4-40GB")
