"""Sessions of cases on a simulated card: what is measured once is not measured again, and nothing that is simulated is called measured.
Covers measure_with_bar.py and profile_file.py."""

import itertools
import json
from dataclasses import replace

import pytest

from szilard.benchmarks.gpu_simulated import SimulatedBench
from szilard.cost_model.device import load_device
from szilard.cost_model.energy_session import Effort
from szilard.cost_model.errors import InputError
from szilard.cost_model.joule_design import joule_points
from szilard.cost_model.meter import Meter
from szilard.rewriter.energy_case import AT_ONCE, measure_cases, part_stamp
from szilard.rewriter.measure_with_bar import measure_with_bar
from szilard.rewriter.microbenchmarks_cuda import point_case
from szilard.rewriter.part_file import PartFile
from szilard.rewriter.profile_file import write_profile

PROFILE = load_device("h200")
QUICK = Effort(least_seconds=0.3, most_seconds=4.0, warm_seconds=0.2, settle_seconds=0.3)
CASES = [point_case(point) for point in joule_points(PROFILE)[: 2 * AT_ONCE + 1]]


class Recorded(SimulatedBench):
    """Remembers what was opened; refuses what `refuses` names and is interrupted when it should open `stops` cases or more."""

    def __init__(self, seed=0, stops=10**6, refuses=()):
        super().__init__(PROFILE, seed)
        self.opened, self.stops, self.refuses = [], stops, refuses

    def open(self, case):
        if len(self.opened) >= self.stops:
            raise KeyboardInterrupt
        if case.config in self.refuses:
            raise NotImplementedError("no units for it")
        self.opened.append(case.key)
        return super().open(case)


def part_of(bench, out, cases=CASES):
    return PartFile(out, part_stamp(bench, PROFILE, cases))


def test_after_an_interruption_only_the_rest_is_measured(tmp_path):
    out, first = tmp_path / "card.json", Recorded(stops=AT_ONCE + 1)
    with pytest.raises(KeyboardInterrupt):
        measure_cases(CASES, first, PROFILE, part_of(first, out), QUICK)
    second = Recorded()
    rows, refused = measure_with_bar(CASES, second, PROFILE, part_of(second, out), QUICK)
    assert first.opened[:AT_ONCE] + second.opened == [case.config for case in CASES]
    assert [row.config for row in rows] == [case.config for case in CASES]
    assert not refused
    third = Recorded()
    again, _ = measure_cases(CASES, third, PROFILE, part_of(third, out), QUICK)
    assert third.opened == []
    assert third.card.now() == 0.0
    assert again == rows


def test_rows_of_another_card_or_profile_are_not_taken_up(tmp_path):
    out, first = tmp_path / "card.json", Recorded()
    measure_cases(CASES[:2], first, PROFILE, part_of(first, out, CASES[:2]), QUICK)
    assert len(part_of(first, out, CASES[:2]).rows) == 2
    assert part_of(Recorded(seed=1), out, CASES[:2]).rows == {}
    assert part_of(first, out, CASES[:3]).rows == {}
    changed = PROFILE.with_values({"static": 130.0})
    assert PartFile(out, part_stamp(first, changed, CASES[:2])).rows == {}


def test_what_a_card_does_not_do_is_named_and_the_rest_goes_on(tmp_path):
    bench = Recorded(refuses=(CASES[1].config,))
    rows, refused = measure_cases(CASES[:3], bench, PROFILE, part_of(bench, tmp_path / "a", CASES[:3]), QUICK)
    assert [row.config for row in rows] == [CASES[0].config, CASES[2].config]
    assert "no units for it" in refused[CASES[1].config]
    none = Recorded(refuses=(CASES[0].config,))
    with pytest.raises(InputError, match="runs none of the cases"):
        measure_cases(CASES[:1], none, PROFILE, part_of(none, tmp_path / "b", CASES[:1]), QUICK)


def test_rows_are_near_the_truth_of_the_card_and_never_called_measured(tmp_path):
    bench = Recorded()
    rows, _ = measure_cases(CASES, bench, PROFILE, part_of(bench, tmp_path / "a"), QUICK)
    for case, row in zip(CASES, rows, strict=True):
        assert row.label == "modelled"
        assert row.device == "simulated card, seed 0"
        assert row.work == case.work(PROFILE)
        assert (row.predicted_seconds, row.predicted_joules) == case.predicted(PROFILE)
        assert row.joules == pytest.approx(bench.card.truth(case.config) * bench.card.traits.gain, rel=0.03)
        assert row.seconds == pytest.approx(bench.taken(case)[0] + case.pause, rel=1e-6)
        assert (row.power_limit, row.driver, row.clock) == (700.0, "simulated", 1980.0)
    assert '"measured"' not in json.dumps([row.label for row in rows])


def test_without_a_counter_there_are_seconds_and_the_reason(tmp_path):
    bench = Recorded()
    bench.meter = Meter("unavailable", "No energy counter: none is here.", None, bench.card)
    rows, _ = measure_cases(CASES[:2], bench, PROFILE, part_of(bench, tmp_path / "a", CASES[:2]), QUICK)
    for case, row in zip(CASES, rows, strict=False):
        assert (row.label, row.joules, row.reason) == ("unavailable", None, "No energy counter: none is here.")
        assert row.seconds == pytest.approx(bench.taken(case)[0] + case.pause, rel=1e-6)
    counted = Recorded()
    measured, _ = measure_cases(CASES[:2], counted, PROFILE, part_of(counted, tmp_path / "a", CASES[:2]), QUICK)
    assert all(row.joules for row in measured)


def test_a_group_is_measured_in_one_session_and_a_repeat_in_another(tmp_path):
    cases = [replace(case, group=f"pair {index // 2}") for index, case in enumerate(CASES[:6])]
    cases.append(replace(cases[0], again=True))
    bench = Recorded()
    sessions, energies = [], bench.meter.energies

    def noted(runs, **effort):
        sessions.append(list(runs))
        return energies(runs, **effort)

    object.__setattr__(bench.meter, "energies", noted)
    rows, _ = measure_cases(cases, bench, PROFILE, part_of(bench, tmp_path / "a", cases), QUICK)
    names = [case.key for case in cases]
    assert sessions == [names[:4], names[4:]]
    assert rows[0].hash == rows[-1].hash
    assert rows[0].joules != rows[-1].joules
    with pytest.raises(ValueError, match="one name"):
        measure_cases([*cases, cases[1]], bench, PROFILE, part_of(bench, tmp_path / "b"), QUICK)


def test_a_profile_is_written_whole_or_not_at_all(tmp_path):
    write_profile(PROFILE, tmp_path / "card.json")
    assert load_device(tmp_path / "card.json").coefficients == PROFILE.coefficients
    assert list(tmp_path.iterdir()) == [tmp_path / "card.json"]
    with pytest.raises(InputError, match="cannot be written"):
        write_profile(PROFILE, tmp_path / "none" / "card.json")


def test_hidden_cards_differ_from_the_profile_and_from_each_other():
    values = [SimulatedBench(PROFILE, seed).truth.values for seed in range(4)]
    for one, other in itertools.combinations([*values, PROFILE.values], 2):
        assert sum(one[key] != other[key] for key in one) > 20
    drawn = [one["flop.bfloat16.tensor"] for one in values]
    assert all(PROFILE.coefficients["flop.bfloat16.tensor"].low <= value for value in drawn)
