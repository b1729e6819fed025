"""What people get wrong, and the answer: it names what was given and what to do, ends with a status, and shows no traceback."""

from pathlib import Path

import pytest

from headroom import cli

KUBECONFIGS = {
    "empty": "{}",
    "no-current": "contexts: [{name: a, context: {}}, {name: b, context: {}}]",
    "away": "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n"
    'clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]\nusers: [{name: u, user: {}}]',
    "no-cluster": "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: d, cluster: {}}]",
    "no-user": "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {}}]",
    "no-server": "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n"
    "clusters: [{name: c, cluster: {}}]\nusers: [{name: u, user: {}}]",
    "exec": "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n"
    'clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]\nusers: [{name: u, user: {exec: {command: aws-no}}}]',
    "other": "current-context: gone\ncontexts: [{name: a, context: {}}]",
}
FILES = {
    **{f"{name}.kubeconfig": text for name, text in KUBECONFIGS.items()},
    "broken.yaml": "a: [",
    "list.yaml": "- 1",
    "unknown.yaml": "prot: 1\nmaks: 2\n",
    "service.yaml": "kind: Service\nmetadata: {name: s}\n",
    "two.yaml": "kind: Pod\n---\nkind: Pod\n",
    "size.yaml": "kind: Pod\nmetadata: {name: p}\n"
    "spec: {containers: [{name: c, resources: {limits: {nvidia.com/gpu: 1, nvidia.com/gpumem: lots}}}]}\n",
    "hpa.yaml": "kind: HorizontalPodAutoscaler\nmetadata: {name: h}\nspec: {scaleTargetRef: {kind: Deployment, name: d}}\n",
    "config.json": "{}",
    "torn.json": '{"a": ',
    "prices.yaml": "card_hour_prices: {L40S: cheap}\n",
    "trace.csv": "a,b\n1,2\n",
    "none.txt": "",
    "items.yaml": "kind: List\nitems: 5\n",
    "metadata.yaml": "kind: Pod\nmetadata: 5\nspec: []\n",
    "spec.yaml": "kind: Pod\nspec: []\n",
    "bare.yaml": "kind: Node\nmetadata: {name: n}\n",
    "pod.yaml": "kind: Pod\nmetadata: {name: p}\n",
}

MISTAKES: list[tuple[str, str]] = [
    # a cluster that is not there
    ("advise --kubeconfig DIR/nowhere", "kubeconfig DIR/nowhere: no such file"),
    ("advise --example --prometheus-url http://p:9090", "leave out --prometheus-url, or leave out --example"),
    (
        "advise --kubeconfig DIR/empty.kubeconfig",
        "has no current context: choose one with `kubectl config use-context NAME` (it has none)",
    ),
    ("doctor --kubeconfig DIR/no-current.kubeconfig", "(it has a, b)"),
    ("explain pod/x --kubeconfig DIR/other.kubeconfig", "has no context gone; it has a"),
    ("fit -f DIR/service.yaml --kubeconfig DIR/empty.kubeconfig", "DIR/service.yaml: holds no pod and no pod template"),
    ("scheduler --kubeconfig DIR/empty.kubeconfig", "has no current context"),
    ("autoscaler --kubeconfig DIR/nowhere", "no such file"),
    (
        "explain pod/x --context elsewhere --kubeconfig DIR/no-current.kubeconfig",
        "has no context elsewhere; it has a, b",
    ),
    *(
        (f"{command} --kubeconfig DIR/away.kubeconfig", said)
        for command in ("explain pod/x", "top", "doctor", "advise", "clean-nodes")
        for said in (
            "the API server http://127.0.0.1:1 cannot be reached: Connection refused",
            "try `kubectl cluster-info`",
        )
    ),
    ("top --kubeconfig DIR/no-cluster.kubeconfig", "context a names the cluster c, which is not there; it has d"),
    ("top --kubeconfig DIR/no-user.kubeconfig", "context a names the user u, which is not there; it has none"),
    ("top --watch --every 0", "0.0 is not in the range 0.5<=x<=3600"),
    ("top -o yaml", "'yaml' is not one of 'text', 'json'"),
    ("explain pod/", "pod/: has no name; write pod/NAME or ia/NAME"),
    ("fit -f DIR/size.yaml --limit 0", "0 is not in the range 1<=x<=2000"),
    # settings
    ("scheduler --scheduler-names=", "scheduler_names: is empty; name at least one scheduler, such as headroom"),
    ("scheduler --policy foo", "--policy: 'foo' is not one of headroom, fgd"),
    ("scheduler --policy gpuclustering", "--policy: 'gpuclustering' is not one of"),
    ("scheduler --lease-namespace x --lease-seconds 2", "lease_seconds: 2 s is below three times bind_timeout_seconds"),
    ("scheduler --port 99999", "--port: 99999 is above 65535"),
    ("scheduler --port many", "--port: 'many' is not a whole number"),
    ("scheduler --answer maybe", "--answer: 'maybe' is not one of"),
    ("scheduler --prot 1", "No such option '--prot'"),
    ("scheduler --config DIR/nowhere", "DIR/nowhere: cannot be read: No such file or directory"),
    ("scheduler --config DIR/broken.yaml", "DIR/broken.yaml: is not YAML"),
    ("scheduler --config DIR/list.yaml", "DIR/list.yaml: must hold keys and values, not list"),
    ("scheduler --config DIR/unknown.yaml", "unknown key 'maks'"),
    ("autoscaler --tick-seconds 0", "--tick-seconds: 0.0 is below 0.2 s"),
    ("autoscaler --project-budgets chat", "chat"),
    ("agent", "--node: the name of this Node is needed (HEADROOM_AGENT_NODE)"),
    ("agent --json", "--json: only with --once"),
    ("agent --node n --script DIR/nowhere --port 0", "DIR/nowhere: cannot be read: No such file or directory"),
    ("agent --node n --interval-seconds soon", "'soon'"),
    # other commands
    ("estimate llama9", "did you mean llama-2-7b"),
    ("estimate DIR/nowhere.json", "DIR/nowhere.json: cannot be read: No such file or directory"),
    ("estimate DIR/config.json", "num_hidden_layers is missing: not the configuration of a language model"),
    ("estimate DIR/torn.json", "DIR/torn.json: is not JSON"),
    ("estimate llama-2-7b --context 99999", "is made for at most 4096 tokens"),
    ("estimate llama-3.1-8b --cards 3", "--cards 3: engines divide the 32 attention heads of llama-3.1-8b evenly"),
    ("estimate llama-3.1-8b --card H100", "several cards are called so"),
    ("estimate", "Missing argument 'MODEL'"),
    ("estimate qwen2.5-7b --card RTX9999", "--card RTX9999: not in the table of cards (Tesla-T4, "),
    ("estimate llama-2-7b --quant q9", "'q9' is not one of 'awq', 'bf16'"),
    ("estimate llama-2-7b --engine ollama", "'ollama' is not one of 'vllm', 'sglang'"),
    ("estimate llama-2-7b --concurrency 0", "0 is not in the range"),
    ("convert -f DIR/size.yaml", "Pod/p, container c: nvidia.com/gpumem: 'lots' is not a quantity such as 20Gi"),
    ("convert -f DIR/hpa.yaml --mode auto", "'auto' is not one of 'Advisory', 'Auto'"),
    ("convert -f DIR/broken.yaml", "DIR/broken.yaml: is not YAML"),
    ("convert -f DIR/none.txt", "DIR/none.txt: holds no object"),
    ("convert -f DIR/hpa.yaml", "no engine known and no metric to carry over: name the engine with --engine"),
    ("convert -f DIR/nowhere", "No such file or directory"),
    ("convert", "Missing option '-f'"),
    ("fit -f DIR/two.yaml", "holds 2 pods or templates; ask about one at a time"),
    ("fit", "Missing option '-f'"),
    ("explain service/x", "service/x: service is neither pod nor ia"),
    ("advise --from DIR/none.txt", "export some with: kubectl get nodes,pods,hpa -A -o json"),
    ("advise --from DIR/nowhere", "DIR/nowhere: cannot be read: No such file or directory"),
    ("advise --example --from DIR", "--example and --from: one of them"),
    ("advise --example --page DIR/none.txt/page.html", "DIR/none.txt"),
    ("advise --example --patches DIR/none.txt", "Directory 'DIR/none.txt' is a file"),
    ("advise --example --spare 500", "500.0 is not in the range 0<=x<=1"),
    ("advise --example --price L40S", "--price L40S: not MODEL=PRICE, such as NVIDIA-L40S=1.86"),
    ("advise --example --tariff DIR/prices.yaml", "card_hour_prices"),
    ("doctor --prometheus-url foo", "'foo' is not the address of a Prometheus"),
    ("usage --tariff DIR/nowhere", "DIR/nowhere: cannot be read: No such file or directory"),
    ("usage --from tomorrow", "--from: 'tomorrow'"),
    ("usage", "http://localhost:9090 cannot be reached: Connection refused"),
    ("usage --prometheus http://127.0.0.1:1", "http://127.0.0.1:1 cannot be reached: Connection refused"),
    ("demo --out DIR/none.txt/x", "DIR/none.txt/x: Not a directory"),
    ("demo --out /proc/x", "/proc/x: No such file or directory"),
    ("demo --hours 0", "0.0 is not in the range"),
    ("demo --on mars", "'mars' is not one of 'embedded', 'kwok'"),
    ("bench extender --policy foo", "'foo' is not one of 'headroom'"),
    ("bench extender --nodes 0", "0 is not in the range"),
    ("bench memory --nodes 0", "0 is not in the range"),
    ("bench autoscaler --objects 0", "0 is not in the range"),
    ("simulate placement --nodes DIR/nowhere --pods DIR/nowhere", "DIR/nowhere: No such file or directory"),
    ("simulate serving --trace DIR/nowhere", "cannot read DIR/nowhere: No such file or directory"),
    ("simulate serving --trace DIR/trace.csv", "DIR/trace.csv"),
    ("simulate", "Usage: headroom simulate"),
    ("install", "No such command 'install'"),
    ("advice", "No such command 'advice': did you mean advise"),
    ("help", "No such command 'help': `headroom --help` lists them"),
    ("convert -f DIR/binary", "DIR/binary: is not text; give YAML or JSON"),
    ("fit -f DIR/binary", "DIR/binary: is not text; give YAML or JSON"),
    ("convert -f DIR/items.yaml", "DIR/items.yaml: document 1: items is not a list of objects"),
    ("convert -f DIR/metadata.yaml", "DIR/metadata.yaml: document 1: metadata is not an object"),
    ("convert -f DIR/spec.yaml", "DIR/spec.yaml: document 1: spec is not an object"),
    ("top --kubeconfig DIR/no-server.kubeconfig", "context a: cluster c has no server"),
    (
        "top --kubeconfig DIR/exec.kubeconfig",
        "user u logs in by the program aws-no, which is not on the PATH: install it",
    ),
    ("top -n x", "--system-namespace x"),
    ("doctor -n x", "--system-namespace x"),
    ("advise --from DIR/bare.yaml", "no cards found: no node has GPU feature discovery's labels or headroom.dev/cards"),
    ("advise --from DIR/pod.yaml", "-o json > cluster.json"),
    ("advise --example --price L40X=2", "--price L40X=2: no card of this model; the fleet has NVIDIA-"),
    ("advise --example --window soon", "--window: "),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x9c")
    return tmp_path


@pytest.mark.parametrize(("command", "said"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_answered_with_what_to_do(
    folder: Path, command: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["headroom", *command.replace("DIR", str(folder)).split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    text = (told.err + told.out).replace(str(folder), "DIR")
    assert ended.value.code in (1, 2), text
    assert said in text
    for never in ("Traceback", "Errno", "Expected key"):
        assert never not in text


def test_without_a_cluster_the_two_places_that_were_looked_at_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["headroom", "advise"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert "there is no kubeconfig (neither $KUBECONFIG nor" in said
    assert "name one with --kubeconfig" in said


def test_there_are_fifty_of_them() -> None:
    assert len(MISTAKES) >= 50
