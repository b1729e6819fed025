"""Matchers added to queries that people wrote, and selections by many names taken apart."""

import promql_parser
import pytest

from headroom.prometheus.promql import PromqlError, matcher, names_apart, with_matchers

MINE = 'cluster="mine"'
ADDED = [
    ("up", 'up{cluster="mine"}'),
    ('up{job="a"}', 'up{job="a",cluster="mine"}'),
    ('up{job="a",}', 'up{job="a",cluster="mine"}'),
    ("up{}", 'up{cluster="mine"}'),
    ("up { }", 'up { cluster="mine"}'),
    ('{__name__=~"a|b"}[60s]', '{__name__=~"a|b",cluster="mine"}[60s]'),
    ('{"my.metric"}', '{"my.metric",cluster="mine"}'),
    ("sum(a)", 'sum(a{cluster="mine"})'),
    ("sum by (x) (rate(a[5m]))", 'sum by (x) (rate(a{cluster="mine"}[5m]))'),
    ("sum(rate(a[5m])) by (x)", 'sum(rate(a{cluster="mine"}[5m])) by (x)'),
    ("sum without(x)(a)", 'sum without(x)(a{cluster="mine"})'),
    ("SUM BY (x) (a)", 'SUM BY (x) (a{cluster="mine"})'),
    ("a / on(x) group_left(y) b", 'a{cluster="mine"} / on(x) group_left(y) b{cluster="mine"}'),
    ("a * ignoring (x) group_right b", 'a{cluster="mine"} * ignoring (x) group_right b{cluster="mine"}'),
    ("a and b unless c or d", " ".join(f"{x}" for x in ('a{C}', "and", "b{C}", "unless", "c{C}", "or", "d{C}")).replace("C", MINE)),
    ("a > bool 3", 'a{cluster="mine"} > bool 3'),
    ("a > bool b", 'a{cluster="mine"} > bool b{cluster="mine"}'),
    ("a offset 5m", 'a{cluster="mine"} offset 5m'),
    ("a offset -5m + b", 'a{cluster="mine"} offset -5m + b{cluster="mine"}'),
    ("a @ end()", 'a{cluster="mine"} @ end()'),
    ("a[5m] @ 1600.5 offset 1m", 'a{cluster="mine"}[5m] @ 1600.5 offset 1m'),
    ("max_over_time(rate(a[1m])[5m:15s])", 'max_over_time(rate(a{cluster="mine"}[1m])[5m:15s])'),
    ("topk(5, a)", 'topk(5, a{cluster="mine"})'),
    ('count_values("version", build)', 'count_values("version", build{cluster="mine"})'),
    ("quantile by (x) (0.9, a)", 'quantile by (x) (0.9, a{cluster="mine"})'),
    ("histogram_quantile(0.9, sum by (le) (rate(a[1m])))", 'histogram_quantile(0.9, sum by (le) (rate(a{cluster="mine"}[1m])))'),
    ("vector(time())", "vector(time())"),
    ("1e5 + 0x1F - .5 + Inf + NaN", "1e5 + 0x1F - .5 + Inf + NaN"),
    ("-a ^ 2", '-a{cluster="mine"} ^ 2'),
    ('a{b="x{y}, z"} # c{d}\n + e', 'a{b="x{y}, z",cluster="mine"} # c{d}\n + e{cluster="mine"}'),
    ("a{b='it\\'s',c=`\"}`}", "a{b='it\\'s',c=`\"}`,cluster=\"mine\"}"),
    ('label_replace(a, "x", "$1", "y", "(.*)")', 'label_replace(a{cluster="mine"}, "x", "$1", "y", "(.*)")'),
    ("vllm:num_requests_waiting", 'vllm:num_requests_waiting{cluster="mine"}'),
    (":tensorflow:serving:request_count", ':tensorflow:serving:request_count{cluster="mine"}'),
    ("absent(a)", 'absent(a{cluster="mine"})'),
    ("scalar(a) * b", 'scalar(a{cluster="mine"}) * b{cluster="mine"}'),
    ("info(a)", 'info(a{cluster="mine"})'),
]  # fmt: skip
METRICSQL = [
    ('a{x="1" or y="2"}', 'a{x="1" ,cluster="mine" or y="2",cluster="mine"}'),
    ("a default 0", 'a{cluster="mine"} default 0'),
    ("a if b", 'a{cluster="mine"} if b{cluster="mine"}'),
    ("rollup_rate(a[5m]) keep_metric_names", 'rollup_rate(a{cluster="mine"}[5m]) keep_metric_names'),
    ("sum(a) by (x) limit 10", 'sum(a{cluster="mine"}) by (x) limit 10'),
]


@pytest.mark.parametrize(("query", "expected"), [*ADDED, *METRICSQL])
def test_a_matcher_reaches_every_selector_and_nothing_else(query: str, expected: str) -> None:
    assert with_matchers(query, [MINE]) == expected
    assert with_matchers(query, []) == query


@pytest.mark.parametrize("query", [query for query, _ in ADDED])
def test_a_parser_finds_the_matcher_in_every_selector(query: str) -> None:
    def selectors(node: promql_parser.Expr) -> list[promql_parser.Expr]:
        kinds = (promql_parser.VectorSelector, promql_parser.MatrixSelector)
        found: list[promql_parser.Expr] = []
        promql_parser.walk(node, lambda e: found.append(e) if isinstance(e, kinds) else None)
        return found

    before = selectors(promql_parser.parse(query))
    after = selectors(promql_parser.parse(with_matchers(query, [MINE])))
    assert len(before) == len(after)
    assert all(MINE in str(one) for one in after)


def test_a_template_that_could_hide_a_selector_is_refused() -> None:
    with pytest.raises(PromqlError, match="WITH templates"):
        with_matchers("WITH (x = a) x", [MINE])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('cluster="prod"', 'cluster="prod"'),
        ("cluster=prod", 'cluster="prod"'),
        ("cluster =~ eu-.*", 'cluster=~"eu-.*"'),
        ('a!="b,c"', 'a!="b,c"'),
        (r"a=~\d+", r'a=~"\\d+"'),
    ],
)
def test_a_matcher_may_leave_its_quotes_out(text: str, expected: str) -> None:
    assert matcher(text) == expected


@pytest.mark.parametrize("text", ["", "cluster", "cluster=", '="x"', 'a="b" or c="d"', 'a="b",c="d"', 'a="b"}', "1a=b"])
def test_what_is_no_matcher(text: str) -> None:
    with pytest.raises(PromqlError, match="not a matcher"):
        matcher(text)


def test_a_selection_by_names_is_taken_apart() -> None:
    assert names_apart('{__name__=~"vllm:a|b"}[75s]') == ["vllm:a[75s]", "b[75s]"]
    assert names_apart('{__name__=~"a|b",cluster="x"}[1m]') == ['a{cluster="x"}[1m]', 'b{cluster="x"}[1m]']
    assert names_apart('{__name__=~"a.*"}[1m]') == []
    assert names_apart("sum(a)") == []
