from __future__ import annotations

from pathlib import Path

import torch

from offline_marl.core.files import load_tree, save_tree
from offline_marl.core.seeding import Generators, derive, seeded_globally


def draw(generator: torch.Generator, count: int = 5) -> torch.Tensor:
    return torch.rand(count, generator=generator)


def test_derived_seeds_fit_torch_and_depend_on_every_part() -> None:
    seeds = [derive(0, "a"), derive(1, "a"), derive(0, "b"), derive(0, "a", 0), derive(0, "a", 1), derive(0)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(0, "a", 1) == derive(0, "a", 1)


def test_a_name_is_one_generator() -> None:
    generators = Generators(3)
    assert generators.get("batches") is generators.get("batches")


def test_a_new_consumer_never_shifts_the_numbers_of_an_old_one() -> None:
    alone, crowded = Generators(3), Generators(3)
    draw(crowded.get("newcomer"))
    assert torch.equal(draw(alone.get("batches")), draw(crowded.get("batches")))


def test_names_and_seeds_draw_different_numbers() -> None:
    first = draw(Generators(3).get("a"))
    assert not torch.equal(first, draw(Generators(3).get("b")))
    assert not torch.equal(first, draw(Generators(4).get("a")))


def test_a_saved_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    generators = Generators(3)
    draw(generators.get("a"), 7)
    torch.randn(3, generator=generators.get("b"))  # normal draws keep a spare number in the state
    save_tree(tmp_path / "state", {"generators": generators.state_dict()}, "state")
    expected = [draw(generators.get("a")), torch.randn(6, generator=generators.get("b"))]

    resumed = Generators(99)
    draw(resumed.get("a"), 2)
    resumed.load_state_dict(load_tree(tmp_path / "state", "state")[0]["generators"])
    assert torch.equal(draw(resumed.get("a")), expected[0])
    assert torch.equal(torch.randn(6, generator=resumed.get("b")), expected[1])


def test_a_saved_state_does_not_move_with_the_generator() -> None:
    generators = Generators(3)
    generators.get("a")
    state = generators.state_dict()
    first = draw(generators.get("a"))
    generators.load_state_dict(state)
    assert torch.equal(draw(generators.get("a")), first)


def test_torchs_own_generator_is_seeded_inside_the_block_and_restored_after() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeded_globally(5, "weights"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    torch.rand(10)
    with seeded_globally(5, "weights"):
        assert torch.equal(torch.rand(3), inside)
    with seeded_globally(5, "other"):
        assert not torch.equal(torch.rand(3), inside)
