"""The replay protocol, the reading of lists, and the command, on lists small enough to count by hand."""

import csv
import gzip
import json
import random
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from headroom.domain.model import Card, GpuNode, GpuRequest
from headroom.errors import HeadroomError
from scheduler.placement.profile import Profile
from simulations.placement.cli import main, parse_seeds, trace_name
from simulations.placement.experiment import Progress
from simulations.placement.replay import Meter, Record, build_fleet, replay, run_published, shuffled, tuned
from simulations.placement.traces import Pod, TraceError, read_nodes, read_pods
from simulations.placement.vram import asked_mib, make_mix, nodes, replica_request, run_vram

NODE_HEAD = "sn,cpu_milli,memory_mib,gpu,model"
POD_HEAD = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,creation_time,deletion_time"
POLICIES = "random,dotprod,gpuclustering,gpupacking,bestfit,fgd,headroom"


def pod(name: str, milli: int = 500, count: int = 1) -> Pod:
    return Pod(name, GpuRequest(count, milli=milli, cpu_milli=1000))


def cluster(count: int = 4, cards: int = 2) -> list[GpuNode]:
    described = tuple(Card(str(at), at, "T4", 1000) for at in range(cards))
    return [GpuNode(f"n{at}", described, cpu_milli=64_000, memory_mib=1000) for at in range(count)]


@pytest.fixture
def lists(tmp_path: Path) -> tuple[Path, Path]:
    """Twenty nodes of two to four cards, and pods that ask for 90 % of them."""
    rng = random.Random(3)
    node_rows = [f"node-{at},64000,262144,{2 + at % 3},{'T4' if at % 2 else 'P100'}" for at in range(20)]
    pod_rows = []
    for at in range(90):
        milli = rng.choice([320, 470, 810, 1000, 1000])
        spec = "P100" if at % 9 == 0 else ""
        pod_rows.append(f"pod-{at:03d},{rng.choice([2000, 8000])},1024,1,{milli},{spec},{at},{at + 50}")
    pod_rows += [f"cpu-{at},4000,1024,0,0,,," for at in range(8)]
    node_path, pod_path = tmp_path / "nodes.csv", tmp_path / "openb_pod_list_small.csv.gz"
    node_path.write_text("\n".join([NODE_HEAD, *node_rows]) + "\n")
    pod_path.write_bytes(gzip.compress("\n".join([POD_HEAD, *pod_rows]).encode()))
    return node_path, pod_path


def simulate(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


class TestProtocol:
    def test_growing_stops_at_the_first_clone_that_would_pass_the_target(self) -> None:
        pods = [pod("a"), pod("b", 300)]
        grown = tuned(pods, 2000, 1.3, random.Random(1))
        assert grown[:2] == pods
        assert 2600 - 500 < sum(each.units for each in grown) <= 2600
        assert len({each.name for each in grown}) == len(grown)

    def test_shrinking_deletes_until_the_target_is_met_and_keeps_the_order(self) -> None:
        pods = [pod(f"p{at}") for at in range(20)]
        shrunk = tuned(pods, 5000, 1.0, random.Random(1))
        assert sum(each.units for each in shrunk) == 5000
        assert [each.name for each in shrunk] == [each.name for each in pods if each in shrunk]

    def test_the_shuffle_depends_on_names_and_seed_only(self) -> None:
        pods = [pod(f"p{at}") for at in range(9)]
        assert shuffled(pods, random.Random(5)) == shuffled(pods[::-1], random.Random(5))
        assert shuffled(pods, random.Random(5)) != shuffled(pods, random.Random(6))

    def test_the_meter_counts_arrived_load_with_failures_and_allocation_without(self) -> None:
        fleet = build_fleet(cluster(1, 1), random.Random(1))
        record = Record("t", "p", 1)
        refused = iter([False, True, False])

        def place(each: Pod):  # type: ignore[no-untyped-def]
            from headroom.domain.model import Placement

            return None if next(refused) else Placement("n", (0,), (each.request.milli,))

        meter = Meter(fleet, Profile.from_requests([pod("x").request]))
        replay([pod("a", 400), pod("b", 500), pod("c", 200)], place, meter, record)
        assert {load: record.alloc_at[load] for load in (0, 39, 40, 89, 90, 109, 110)} == pytest.approx(
            {0: 0.0, 39: 0.0, 40: 40.0, 89: 40.0, 90: 40.0, 109: 40.0, 110: 60.0}
        )
        assert (record.pods, record.failed) == (3, 1)

    @pytest.mark.parametrize("policy", POLICIES.split(","))
    def test_a_run_depends_on_its_seed_only(self, policy: str, lists: tuple[Path, Path]) -> None:
        nodes_ = read_nodes(lists[0])
        pods = read_pods(lists[1], nodes_)
        one, same, other = (
            run_published(nodes_, order, trace="t", policy=policy, seed=seed, load=1.3)
            for order, seed in ((pods, 1), (pods[::-1], 1), (pods, 2))
        )
        assert one == same
        assert one.alloc_at != other.alloc_at
        assert one.alloc_at[130] <= 100.0
        assert one.failed > 0

    def test_headroom_wastes_less_than_random_where_sizes_matter(self, lists: tuple[Path, Path]) -> None:
        nodes_ = read_nodes(lists[0])
        pods = read_pods(lists[1], nodes_)

        def allocated(policy: str) -> float:
            runs = [run_published(nodes_, pods, trace="t", policy=policy, seed=seed, load=1.3) for seed in range(4)]
            return sum(run.alloc_at[100] for run in runs)

        assert allocated("headroom") > allocated("random") + 4

    def test_a_learned_profile_needs_no_list(self, lists: tuple[Path, Path]) -> None:
        nodes_ = read_nodes(lists[0])
        pods = read_pods(lists[1], nodes_)
        learned = run_published(nodes_, pods, trace="t", policy="headroom", seed=1, load=1.3, learned=True)
        assert learned.alloc_at[130] > 80


class TestLists:
    @pytest.mark.parametrize(
        ("rows", "problem"),
        [
            ([], "has no rows"),
            (["p1,1000,1,1,500,,,", "p1,1000,1,1,500,,,"], "row 3, column name: the name 'p1' occurs twice"),
            (["p1,-1,1,1,500,,,"], "row 2, column cpu_milli: -1 is not within 0..10000000"),
            (["p1,1000,1,1,1500,,,"], "row 2, column gpu_milli: 1500 is not within 0..1000"),
            (["p1,1000,1,1,x,,,"], "row 2, column gpu_milli: 'x' is not a whole number"),
            (["p1,1000,1,1,,,,"], "row 2, column gpu_milli: is empty"),
            (["p1,1000,1,1,0,,,"], "row 2, column gpu_milli: is 0 although num_gpu is not"),
            (["p1,1000,1,2,500,,,"], "row 2, column gpu_milli: is 500; a pod on several cards takes whole ones"),
            (
                ["p0,1,1,1,9,T4,,", "p1,1000,1,1,500,H900,,"],
                "row 3, column gpu_spec: no node has cards of model 'H900'; known: P100, T4",
            ),
            (["p1,1000,1,5,1000,,,"], "row 2: the pod is larger than any node"),
            (["p1,64001,1,1,500,,,"], "row 2: the pod is larger than any node"),
            (["p1,1000,1,1,500,,9,5"], "row 2, column deletion_time: 5 is before creation_time 9"),
            (["p1,1000,1,1,500,,nan,"], "row 2, column creation_time: nan is not a time"),
            (["p1,1000,1,1,500,,,,,,"], "row 2: has more values than the header has columns"),
            (["p1,1000,1,0,0,,,"], "no pod asks for a GPU"),
        ],
    )
    def test_bad_pods_are_told_with_row_and_column(
        self, lists: tuple[Path, Path], rows: list[str], problem: str
    ) -> None:
        path = lists[1].with_name("bad.csv")
        path.write_text("\n".join([POD_HEAD, *rows]))
        with pytest.raises(TraceError, match=re.escape(problem)) as error:
            read_pods(path, read_nodes(lists[0]))
        assert str(error.value).startswith(str(path))

    def test_missing_columns_unreadable_gzip_and_no_file(self, lists: tuple[Path, Path], tmp_path: Path) -> None:
        path = tmp_path / "x.csv.gz"
        with pytest.raises(TraceError, match="No such file"):
            read_nodes(path)
        path.write_bytes(b"\x1f\x8bnonsense")
        with pytest.raises(TraceError, match="is not readable gzip"):
            read_nodes(path)
        path.write_bytes(gzip.compress(b"sn,cpu_milli,gpu,model\na,1,1,T4"))
        with pytest.raises(TraceError, match="row 1: no column 'memory_mib' in the header"):
            read_nodes(path)
        path.write_bytes(gzip.compress(b"sn,cpu_milli,memory_mib,gpu,model\na,1,1,0,"))
        with pytest.raises(TraceError, match="no node has a GPU"):
            read_nodes(path)

    def test_repeated_models_and_lifetimes(self, lists: tuple[Path, Path]) -> None:
        path = lists[1].with_name("more.csv")
        path.write_text("\n".join([POD_HEAD, "p1,1000,1,1,500,T4|T4,10,25", "p2,1000,1,1,500,,10,"]))
        first, second = read_pods(path, read_nodes(lists[0]))
        assert first.request.models == frozenset({"T4"})
        assert (first.lifetime_seconds, second.lifetime_seconds) == (15.0, None)


class TestCommand:
    def test_tables_and_files_are_the_same_on_any_number_of_processes(
        self, lists: tuple[Path, Path], tmp_path: Path
    ) -> None:
        outputs = []
        for processes in (1, 2):
            out = tmp_path / f"out-{processes}"
            result = simulate(
                "--nodes", lists[0], "--pods", lists[1], "--policies", "fgd,headroom,headroom-learned,random",
                "--seeds", "1:2", "--jobs", processes, "--out", out,
            )  # fmt: skip
            assert result.exit_code == 0, result.output
            records = json.loads((out / "results.json").read_text())
            for record in records:
                del record["seconds"]
            outputs.append(records)
        assert outputs[0] == outputs[1]
        assert [(r["trace"], r["policy"], r["seed"]) for r in outputs[0][:3]] == [
            ("small", "fgd", 1), ("small", "fgd", 2), ("small", "headroom", 1),
        ]  # fmt: skip
        assert "100" in outputs[0][0]["alloc_at"]
        assert (out / "tables.md").read_text() in result.stdout
        with (tmp_path / "out-1" / "results.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 8
        assert float(rows[0]["alloc_100"]) == pytest.approx(outputs[0][0]["alloc_at"]["100"])

    def test_finished_runs_are_not_repeated(self, lists: tuple[Path, Path], tmp_path: Path) -> None:
        base = ["--nodes", lists[0], "--pods", lists[1], "--policies", "bestfit"]
        assert simulate(*base, "--seeds", "1", "--out", tmp_path / "a").exit_code == 0
        result = simulate(*base, "--seeds", "1:2", "--resume", tmp_path / "a" / "results.json", "--out", tmp_path / "b")
        assert "1/1 runs" in result.output
        records = json.loads((tmp_path / "b" / "results.json").read_text())
        assert [record["seed"] for record in records] == [1, 2]

    def test_published_figures_are_compared(self, lists: tuple[Path, Path], tmp_path: Path) -> None:
        published = tmp_path / "published.csv"
        head = "workload,policy,arrived_load_percent,mean_gpu_allocation_percent,std,n_seeds"
        published.write_text(f"{head}\nsmall,BestFit,100,20.0,0.1,10\nsmall,FGD,100,90.0,40.0,10\n")
        result = simulate(
            "--nodes",
            lists[0],
            "--pods",
            lists[1],
            "--policies",
            "bestfit,fgd",
            "--seeds",
            "1",
            "--published",
            published,
        )
        assert re.search(r"bestfit +\| 100 .* NO ", result.output)
        assert re.search(r"fgd +\| 100 .* yes ", result.output)
        assert "1 of 2 figures of the same policy are within the margin; outside are:" in result.output

    def test_bad_input_leaves_nothing_behind(self, lists: tuple[Path, Path], tmp_path: Path) -> None:
        bad = tmp_path / "bad.csv"
        bad.write_text(POD_HEAD + "\np1,1000,1,1,1500,,,\n")
        out = tmp_path / "out"
        result = simulate("--nodes", lists[0], "--pods", lists[1], "--pods", bad, "--seeds", "1", "--out", out)
        assert isinstance(result.exception, TraceError)
        assert not out.exists()
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (["--policies", "best"], "unknown policy 'best'"),
            (["--policies", ","], "names no policy"),
            (["--seeds", "5:1"], "names no seed"),
            (["--seeds", "a"], "is not like 42:51"),
            ([], "--nodes and at least one --pods are needed"),
            (["--scenario", "vram", "--nodes", "x"], "belong to --scenario openb"),
        ],
    )
    def test_bad_flags(self, arguments: list[str], problem: str) -> None:
        result = simulate(*arguments)
        assert isinstance(result.exception, HeadroomError)
        assert problem in str(result.exception)

    def test_names_and_seeds(self) -> None:
        assert parse_seeds("42:44") == [42, 43, 44]
        assert parse_seeds("7,3,7") == [7, 3]
        assert trace_name(Path("a/openb_pod_list_cpu050.csv.gz")) == "cpu050"

    def test_progress_tells_the_time_left(self, capsys: pytest.CaptureFixture[str]) -> None:
        progress = Progress(2)
        progress.step()
        progress.step()
        assert "2/2 runs, 0 min 00 s left" in capsys.readouterr().err


class TestVramScenario:
    def test_the_memory_of_a_replica_by_hand(self) -> None:
        # 8.0e9 parameters x 2 bytes = 14.9 GiB, 32,768 tokens x 128 KiB = 4 GiB, 1.5 GiB beside: 20.4 -> 21 GiB
        request = replica_request(8.0, 128, 2.0, 32_768)
        assert request is not None
        assert (request.count, request.vram_mib) == (1, 21 * 1024)
        # 70.6e9 x 2 bytes = 131.5 GiB and 10 GiB of cache: two cards of 72.3 GiB are too small, four of 36.9 do
        request = replica_request(70.6, 320, 2.0, 32_768)
        assert request is not None
        assert (request.count, request.vram_mib) == (4, 37 * 1024)

    def test_the_mix_is_drawn_from_the_seed(self) -> None:
        assert make_mix(random.Random(1)) == make_mix(random.Random(1))
        assert make_mix(random.Random(1)) != make_mix(random.Random(2))
        assert all(asked_mib(request) > 0 for request in make_mix(random.Random(1)).requests)
        assert sum(len(node.cards) for node in nodes()) == 680

    def test_arrivals_only(self) -> None:
        one, same = (run_vram(policy="bestfit", seed=3, load=1.1, learned=False, departures=False) for _ in range(2))
        assert one == same
        assert one.alloc_at[50] == pytest.approx(50, abs=1.5)
        assert 80 < one.alloc_at[110] < 100

    def test_departures(self) -> None:
        record = run_vram(policy="bestfit", seed=3, load=0.2, learned=False, departures=True)
        assert sorted(record.timeline) == [float(hour) for hour in range(1, 25)]
        allocated = [share for share, _ in record.timeline.values()]
        assert allocated[0] < allocated[-1] < 40
        assert record.refused_percent >= 0
