"""Reading traces: formats, counted rules, clear errors; copies, parts, patterns."""

import gzip
import json
import random
import statistics
from pathlib import Path

import pytest

from simulations.serving.loads.lengths import LENGTHS
from simulations.serving.loads.patterns import PATTERNS, generate, parse_pattern
from simulations.serving.loads.traces import Trace, TraceError, read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109"


def write(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, newline="")
    return path


def test_azure_stamps_of_seven_digits_become_seconds_from_the_first(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, AZURE))
    assert (tuple(trace.prompt_tokens), tuple(trace.output_tokens)) == ((374, 396), (44, 109))
    assert tuple(trace.arrival_seconds) == (0.0, pytest.approx(4.314579, abs=1e-5))


def test_gzip_is_seen_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "plain-name"
    path.write_bytes(gzip.compress(AZURE.encode()))
    assert len(read_trace(path)) == 2


def test_mooncake_lines_keep_their_prefix_blocks(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 27000, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]},
        {"timestamp": 30000, "input_length": 6472, "output_length": 26, "hash_ids": [46, 60]},
    ]
    trace = read_trace(write(tmp_path, "\n".join(map(json.dumps, rows)), "t.jsonl"))
    assert tuple(trace.arrival_seconds) == (0.0, 3.0)
    assert trace.blocks == ((46, 47), (46, 60))
    assert list(trace.requests())[1].blocks == (46, 60)


@pytest.mark.parametrize(
    "header",
    [
        "arrival_seconds,prompt_tokens,output_tokens",
        "Timestamp,Request tokens,Response tokens",
        "time,input_length,output_length",
    ],
)
def test_generic_columns_go_by_several_names(tmp_path: Path, header: str) -> None:
    assert list(read_trace(write(tmp_path, f"{header}\n5,10,20\n7.5,1,1\n")).arrival_seconds) == [0.0, 2.5]


def test_rows_without_tokens_are_left_out_and_disorder_is_sorted_both_counted(tmp_path: Path) -> None:
    trace = read_trace(
        write(tmp_path, "arrival,prompt_tokens,output_tokens\n9,1,1\n3,5,5\n4,0,9\n5,-2,3\n6,7,0\n8,2,2\n")
    )
    assert tuple(trace.arrival_seconds) == (0.0, 5.0, 6.0)
    assert trace.notes == (
        "3 rows without prompt or output tokens were left out",
        "1 rows were out of order; the trace was sorted by arrival",
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("arrival,prompt_tokens\n1,2\n", "no column output_tokens or"),
        ("a,b,c\n1,2,3\n", "its columns are a, b, c"),
        ("arrival,prompt_tokens,output_tokens\n", "holds no usable request"),
        ("arrival,prompt_tokens,output_tokens\n1,0,0\n", r"holds no usable request \(1 rows"),
        ("arrival,prompt_tokens,output_tokens\n1,2,3\nsoon,2,3\n", "line 3: .*'soon'"),
        ("arrival,prompt_tokens,output_tokens\n1,2.5,3\n", "line 2: '2.5' is not a number of tokens"),
        ("arrival,prompt_tokens,output_tokens\nnan,2,3\n", "line 2: time 'nan' is not finite"),
        ("arrival,prompt_tokens,output_tokens\n1,2\n", "line 2: too few columns"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,2,3\n", "line 2: Invalid isoformat"),
        ('{"timestamp": 1, "input_length": 5}\n', "line 1: output_length must be a number, not None"),
        ('{"timestamp": 1\n', "line 1: not JSON"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 2, "hash_ids": "x"}\n', "hash_ids must be a list"),
    ],
)
def test_a_broken_trace_is_refused_with_the_place_and_the_reason(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(TraceError, match=complaint):
        read_trace(write(tmp_path, text))


def test_a_missing_and_a_cut_off_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read"):
        read_trace(tmp_path / "none.csv")
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(AZURE.encode())[:-12])
    with pytest.raises(TraceError, match="cannot read"):
        read_trace(cut)


def test_copies_keep_the_span_and_do_not_share_prefixes() -> None:
    trace = Trace("t", (0.0, 10.0, 30.0), (1, 2, 3), (4, 5, 6), ((1,), (1,), (2,)))
    double = trace.copies(2, 25.0)
    # the second copy comes at 25 and, wrapped round the span of 30, at 5 and 25
    assert tuple(double.arrival_seconds) == (0.0, 0.0, 5.0, 10.0, 25.0, 25.0)
    assert sorted(double.prompt_tokens) == [1, 1, 2, 2, 3, 3]
    assert len(set(double.blocks)) == 4
    assert trace.copies(1, 25.0) is trace


def test_a_part_counts_from_its_own_first_arrival_and_may_not_be_empty() -> None:
    trace = Trace("t", (0.0, 10.0, 30.0), (1, 2, 3), (4, 5, 6))
    part = trace.part(5.0, 30.0)
    assert (tuple(part.arrival_seconds), tuple(part.prompt_tokens)) == ((0.0, 20.0), (2, 3))
    with pytest.raises(TraceError, match="no request arrives between 12 s and 17 s"):
        trace.part(12.0, 5.0)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_come_near_their_mean_rate_and_repeat_by_seed(name: str) -> None:
    rate, hours = (0.1, 168.0) if name == "week" else (5.0, 3.0)
    trace = generate(name, rate=rate, hours=hours, seed=3)
    assert trace == generate(name, rate=rate, hours=hours, seed=3)
    assert trace.arrival_seconds != generate(name, rate=rate, hours=hours, seed=4).arrival_seconds
    assert list(trace.arrival_seconds) == sorted(trace.arrival_seconds)
    assert 0.7 < len(trace) / (rate * hours * 3600) < 1.4


@pytest.mark.parametrize(
    ("lengths", "time", "prompt", "output"),
    [
        ("chat", 0.0, 900, 140), ("documents", 0.0, 28_000, 300), ("reasoning", 0.0, 400, 8000), ("agents", 0.0, 6000, 1200),
        ("shifting", 100.0, 900, 140), ("shifting", 2000.0, 6000, 100), ("flipping", 0.0, 4000, 14), ("flipping", 3000.0, 300, 500),
    ],
)  # fmt: skip
def test_lengths_have_the_medians_of_their_kind(lengths: str, time: float, prompt: int, output: int) -> None:
    rng = random.Random(1)
    drawn = [LENGTHS[lengths](rng, time) for _ in range(2001)]
    assert statistics.median(p for p, _ in drawn) == pytest.approx(prompt, rel=0.08)
    assert statistics.median(o for _, o in drawn) == pytest.approx(output, rel=0.08)


def test_a_week_has_nights_weekends_and_growth() -> None:
    trace = generate("week", rate=0.5, hours=168.0, seed=1)
    per_day = [0] * 7
    for arrival in trace.arrival_seconds:
        per_day[min(int(arrival // 86_400), 6)] += 1
    assert max(per_day[5:]) < 0.75 * min(per_day[:5])
    assert per_day[4] > per_day[0]


def test_a_pattern_text_is_read_or_refused() -> None:
    assert len(parse_pattern("pattern:steady,rate=2,hours=0.5", 1)) == len(
        generate("steady", rate=2, hours=0.5, seed=1)
    )
    for text, complaint in (
        ("pattern:waves", "unknown pattern 'waves'"),
        ("pattern:ramp,rate=x", "'rate=x' is not rate=NUMBER"),
        ("pattern:ramp,speed=2", "'speed=2'"),
        ("pattern:ramp,rate=-1", "must be above 0"),
    ):
        with pytest.raises(TraceError, match=complaint):
            parse_pattern(text, 1)
