"""The three stages on a simulated card, from end to end with few and small models; files, labels and promises."""

import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from rich.console import Console

from szilard.benchmarks import gpu_energy, gpu_kernels, gpu_models, gpu_networks
from szilard.benchmarks.gpu_sensors import sensors
from szilard.benchmarks.gpu_simulated import SimulatedBench
from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.measurement import read_measurements
from szilard.cost_model.price import price_net
from szilard.rewriter.calibrate_cuda import HELD_OUT

PRIOR = load_device("h200")
STAGES = ((8, 1), (16, 1))
LESS_A_MINUTE = gpu_energy.MOST_STAGE_SECONDS - 60.0


def small_cases():
    """A small network in float32 and float16, and a layer with int8 weights."""
    few = partial(gpu_networks.ConvNet, STAGES)
    yield from gpu_models.pair("convnet", "tiny 64", few, images(64), torch.float16)
    yield from list(gpu_kernels.kernel_cases())[:2]


def images(batch):
    return lambda device, dtype: {"pixels": gpu_networks.pixels(batch, 64, device, dtype)}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """(what the stages found, their folder, what they printed)."""
    folder, cases = tmp_path_factory.mktemp("gpu"), list(small_cases())
    with open(folder / "log.txt", "w") as file:
        bench, console = SimulatedBench(PRIOR, 1), Console(file=file, width=200)
        found = gpu_energy.run(gpu_energy.STAGES, bench, PRIOR, folder, [*cases, *gpu_energy.repeats(cases)], console)
    return found, folder, (folder / "log.txt").read_text()


def test_models_that_were_never_fitted_on_are_predicted_and_the_promises_kept(stages):
    found, _, printed = stages
    promises = found["validate"]["promises"]
    assert list(promises) == [
        "mean error of joules at most 8%: profile, measured seconds",
        "mean error of joules at most 8%: profile, predicted seconds",
        "goal: mean error at most 5%: profile, measured seconds",
        "goal: mean error at most 5%: profile, predicted seconds",
        "all four baselines beaten",
        "median half-width of a measurement at most 2%",
        "median half-width of a coefficient at most 10%",
    ]
    assert all(one["kept"] for one in promises.values())
    assert {one["label"] for one in promises.values()} == {"modelled"}
    assert printed.index("split ") < printed.index("rows; joules") < printed.index("kept   mean error of joules")
    for table in found["validate"]["verdict"]["tables"]:
        assert table["label"] == "modelled"
    assert found["validate"]["verdict"]["split"]["fit"] == sorted(found["validate"]["verdict"]["split"]["fit"])
    assert not set(found["validate"]["verdict"]["split"]["fit"]) & {"convnet", "quantized_linear"}


def test_sensors_are_told_as_the_simulated_card_has_them(stages):
    parts = stages[0]["sensors"]["parts"]
    idle = parts["idle"]
    assert idle["deep"]["watts"] < idle["context"]["watts"] < idle["active"]["watts"]
    assert parts["ticks at work"]["period [s]"] == pytest.approx(0.1, rel=0.02)
    assert parts["square wave"]["verdict"] == "full"
    random, zeros = parts["products of random numbers and zeros"].values()
    assert zeros["watts"] < 0.85 * random["watts"]
    assert parts["copy in memory"]["neg float32 49999872 x12"]["B/s past the cache"] > 1e12


def test_every_file_says_that_nothing_was_measured(stages):
    _, folder, _ = stages
    files = sorted(path.name for path in folder.iterdir() if path.name != "log.txt")
    assert files == [
        "gpu-energy-simulated-models.csv",
        "gpu-energy-simulated-profile.json",
        "gpu-energy-simulated-profile.measurements.csv",
        "gpu-energy-simulated-sensors.json",
        "gpu-energy-simulated-stages.json",
        "gpu-energy-simulated-verdict.json",
    ]
    for name in files[0], files[2]:
        assert {row.label for row in read_measurements(folder / name)} == {"modelled"}
    labels = [
        value
        for name in files
        if name.endswith(".json")
        for key, value in leaves(json.loads((folder / name).read_text()))
        if key in ("label", "provenance", "status")
    ]
    assert "modelled" in labels
    assert "measured" not in labels


def leaves(data, key=""):
    if isinstance(data, dict):
        for name, value in data.items():
            yield from leaves(value, name)
    elif isinstance(data, list):
        for value in data:
            yield from leaves(value, key)
    else:
        yield key, data


def test_the_seconds_of_every_stage_are_kept(stages):
    _, folder, printed = stages
    kept = json.loads((folder / "gpu-energy-simulated-stages.json").read_text())
    assert list(kept["stages"]) == list(gpu_energy.STAGES)
    calibrated = json.loads((folder / "gpu-energy-simulated-profile.json").read_text())["calibration"]
    assert kept["stages"]["calibrate"]["seconds"] == pytest.approx(calibrated["measuring_seconds"])
    for stage, one in kept["stages"].items():
        assert one["kept"]
        assert f"kept   {stage}: {one['seconds']:.0f} s of the simulated card" in printed


def test_a_stage_that_takes_too_long_is_told_and_a_repeat_does_not_hide_it(tmp_path):
    bench, files = SimulatedBench(PRIOR, 1), gpu_energy.Files(tmp_path, "simulated")
    assert not gpu_energy.keep_seconds(files, bench, "sensors", 481.0)
    assert not gpu_energy.keep_seconds(files, bench, "sensors", 0.1)
    assert gpu_energy.keep_seconds(files, bench, "validate", 479.0)
    assert gpu_energy.keep_seconds(files, SimulatedBench(PRIOR, 2), "sensors", 1.0), "another card begins anew"
    files.stages.write_text("{")
    assert gpu_energy.keep_seconds(files, bench, "sensors", 1.0)


def test_all_stages_with_all_cases_take_less_than_eight_minutes_each(stages):
    """A case takes its windows, whatever runs in them. A real card opens cases too: kernels are compiled, algorithms chosen, graphs
    captured; a minute is left for that."""
    kept = json.loads((stages[1] / "gpu-energy-simulated-stages.json").read_text())["stages"]
    few, all_cases = list(small_cases()), [*gpu_kernels.kernel_cases(), *gpu_models.model_cases()]
    more = count(all_cases) / count(few)
    assert all(kept[stage]["seconds"] < LESS_A_MINUTE for stage in ("sensors", "calibrate"))
    assert kept["validate"]["seconds"] * more < LESS_A_MINUTE


def count(cases):
    return len(cases) + len(gpu_energy.repeats(cases))


def test_a_repeated_sensor_stage_measures_nothing_again(stages):
    found, folder, _ = stages
    bench = SimulatedBench(PRIOR, 1)
    again = gpu_energy.run(["sensors"], bench, PRIOR, folder, [], Console(quiet=True))
    assert bench.card.now() == 0.0
    assert again["sensors"] == json.loads((folder / "gpu-energy-simulated-sensors.json").read_text())
    assert again["sensors"]["parts"].keys() == found["sensors"]["parts"].keys()


def test_a_part_that_failed_is_measured_again_and_the_others_are_not(stages, tmp_path):
    out = tmp_path / "sensors.json"
    data = json.loads((stages[1] / "gpu-energy-simulated-sensors.json").read_text())
    parts = data["parts"]
    parts["idle"] |= {"label": "unavailable", "deep": None, "context": None, "active": None}
    parts["square wave"] = {"reason": "is shared with the process 7"}
    product = parts["products of random numbers and zeros"]
    product[next(iter(product))] |= {"label": "unavailable", "joules": None, "watts": None}
    out.write_text(json.dumps(data))
    said = []
    again = sensors(SimulatedBench(PRIOR, 1), PRIOR, out, said.append)["parts"]
    assert said == ["idle", "square wave", "products of random numbers and zeros"]
    assert again["idle"]["label"] == "modelled"
    assert again["square wave"]["verdict"] == "full"
    assert all(case["joules"] for case in again["products of random numbers and zeros"].values())
    assert json.loads(out.read_text())["parts"]["square wave"]["verdict"] == "full"


def test_another_driver_or_profile_measures_all_sensors_again(stages, tmp_path):
    text, out = (stages[1] / "gpu-energy-simulated-sensors.json").read_text(), tmp_path / "sensors.json"
    other = SimulatedBench(PRIOR, 1)
    other.driver = "another"
    for bench, profile in ((other, PRIOR), (SimulatedBench(PRIOR, 1), PRIOR.with_values({"link": 0.0}))):
        out.write_text(text)
        said = []
        with pytest.raises(KeyboardInterrupt):
            sensors(bench, profile, out, lambda part, said=said: said.append(part) or interrupt(said))
        assert said == ["idle", "support"]


def interrupt(said):
    if len(said) == 2:
        raise KeyboardInterrupt


def test_a_folder_that_takes_no_file_is_told_before_a_sensor_is_read(tmp_path):
    bench = SimulatedBench(PRIOR, 1)
    with pytest.raises(InputError, match="cannot be written: No such file"):
        sensors(bench, PRIOR, tmp_path / "none" / "sensors.json", lambda part: None)
    assert bench.card.now() == 0.0


def test_validation_without_a_profile_says_what_to_run_first(tmp_path):
    with pytest.raises(InputError, match="--stage calibrate"):
        gpu_energy.run(["validate"], SimulatedBench(PRIOR, 1), PRIOR, tmp_path, [], Console(quiet=True))


def test_repeats_are_the_same_configs_again():
    cases = list(small_cases())
    again = gpu_energy.repeats(cases)
    assert [case.config for case in again] == [case.config for case in cases[:: gpu_energy.REPEATED]]
    assert not {case.key for case in again} & {case.key for case in cases}


def test_a_network_runs_as_it_is_priced():
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "num_key_value_heads": 3, "vocab_size": 64}
    make = partial(gpu_networks.Decoder, num_hidden_layers=1, **sizes)

    def step(device, dtype):
        token = torch.randint(64, (2, 1), device=device)
        return {"input_ids": token, "keys": caches(device, dtype), "values": caches(device, dtype)}

    def caches(device, dtype):
        return torch.randn(1, 2, 3, 16, 64, device=device, dtype=dtype)

    on_meta, here = (gpu_models.Traced(make, step, torch.float32) for _ in range(2))
    run = here.build("cpu")
    assert tuple(run().shape) == (2, 1, 64)
    seen, predicted = (price_net(each.view(), PRIOR).total for each in (here, on_meta))
    assert seen.flops_by_dtype == predicted.flops_by_dtype
    assert seen.bytes == pytest.approx(predicted.bytes, rel=0.01)
    assert any(op.kind == "attention" for op in here.view().ops.values())


def test_sparse_attention_and_int8_weights_are_counted_whole():
    found = {case.config: case for case in gpu_kernels.kernel_cases()}
    sparse, dense = found["attention 1024 spectral"].cost(PRIOR), found["attention 1024 dense"].cost(PRIOR)
    assert not sparse.unpriced
    assert sparse.launches > 20 * dense.launches
    quantised, plain = found["linear 1 int8 weights"].cost(PRIOR), found["linear 1 bfloat16"].cost(PRIOR)
    assert quantised.bytes == pytest.approx(plain.bytes / 2, rel=0.01)


def test_all_cases_of_the_validation_have_names_of_their_own():
    cases = [*gpu_kernels.kernel_cases(), *gpu_models.model_cases()]
    assert len({case.key for case in cases}) == len(cases) == 34
    assert {case.family for case in cases} == set(HELD_OUT)
    names = {case.config for case in cases}
    assert sum(bool(case.rewritten_from) for case in cases) == 17
    assert all(case.rewritten_from in names for case in cases if case.rewritten_from)


def test_a_machine_without_a_card_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA card"):
        gpu_energy.main(["--out", str(tmp_path)])


@pytest.mark.long
def test_the_script_needs_no_package_that_a_bare_machine_with_torch_lacks():
    lacking = ("platformdirs", "plotly", "zeus", "onnxruntime")
    code = f"import sys; sys.modules.update(dict.fromkeys({lacking!r})); import szilard.benchmarks.gpu_energy as g; "
    code += "import szilard.benchmarks.gpu_models, szilard.benchmarks.gpu_kernels, szilard.rewriter.cuda_bench"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
