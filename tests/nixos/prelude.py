# What every script begins with. `machines`, `start_all` and the machines by name are the test driver's.
import json
import time

CLUSTER_IP = "10.43.0.100"
WAN0 = "203.0.113.10"
WAN0_B = "203.0.113.11"
WAN1 = "198.51.100.10"
ALLOWED = "192.0.2.10"
DENIED = "192.0.2.200"
ALLOWED_BY_WAN1 = "192.0.2.130"


def kubectl(arguments: str) -> str:
    return cp.succeed(f"KUBECONFIG=/etc/kubeconfig kubectl {arguments}")


def apply(*objects: dict) -> None:
    """Writes these objects to the API server."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    cp.succeed("cat >/tmp/objects.json <<'END'\n" + text + "\nEND")
    kubectl("apply -f /tmp/objects.json")


def service(node_port: bool = False) -> dict:
    ports = [
        {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"},
        {"name": "dns", "port": 53, "targetPort": 8080, "protocol": "UDP"},
    ]
    if node_port:
        ports[0]["nodePort"] = 30080
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "NodePort" if node_port else "ClusterIP",
            "clusterIP": CLUSTER_IP,
            "ports": ports,
        },
    }


def endpoints(*addresses: str) -> dict:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "web-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
        "ports": [
            {"name": "http", "port": 8080, "protocol": "TCP"},
            {"name": "dns", "port": 8080, "protocol": "UDP"},
        ],
    }


def mapping(
    name: str = "web",
    mode: str = "service",
    addresses: tuple[str, ...] = (WAN0, WAN1),
    sources: tuple[str, ...] = ("192.0.2.0/25", "192.0.2.130"),
) -> dict:
    return {
        "apiVersion": "smartnat.aureacentral.com/v1alpha1",
        "kind": "Mapping",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "addresses": list(addresses),
            "allowedSources": list(sources),
            "serviceName": "web",
            "mode": mode,
            "ports": [
                {"port": 80},
                {"port": 53, "protocol": "udp", "servicePort": "dns"},
            ],
        },
    }


def start_cluster() -> None:
    """Everything is up, and the API server knows what a Mapping is."""
    start_all()
    cp.wait_for_unit("kube-apiserver.service")
    cp.wait_until_succeeds("KUBECONFIG=/etc/kubeconfig kubectl get --raw /readyz", timeout=180)
    cp.wait_until_succeeds(
        "KUBECONFIG=/etc/kubeconfig kubectl apply -f /etc/manifests/mapping-crd.yaml -f /etc/manifests/rbac.yaml",
        timeout=60,
    )
    cp.wait_until_succeeds(
        "KUBECONFIG=/etc/kubeconfig kubectl wait --for=condition=Established crd/mappings.smartnat.aureacentral.com",
        timeout=60,
    )
    # kube-proxy would wait half a minute for a Node of its box at each start.
    for name, address in (("box", "10.0.0.2"), ("box2", "10.0.0.3")):
        apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        status = json.dumps({"status": {"addresses": [{"type": "InternalIP", "address": address}]}})
        kubectl(f"patch node {name} --subresource=status --type=merge -p '{status}'")


def ask(client, source: str, address: str, port: int = 80, protocol: str = "tcp") -> tuple[int, str]:
    """How a question ended (0 answered, 3 refused, 4 no answer, 5 not asked), and the answer: the pod's name and the address that it saw."""
    status, output = client.execute(f"peer ask {protocol} {source} {address} {port}")
    return status, output.strip()


def served(client, source: str, address: str, port: int = 80, protocol: str = "tcp", timeout: int = 120) -> str:
    """Waits until it is answered; the answer."""
    command = f"peer ask {protocol} {source} {address} {port}"
    return client.wait_until_succeeds(command, timeout=timeout).strip()


def silent(client, source: str, address: str, port: int = 80, protocol: str = "tcp") -> None:
    """Nobody answers, and nobody refuses: the packet is dropped."""
    status, output = ask(client, source, address, port, protocol)
    assert status == 4, f"{protocol} {source} -> {address}:{port} was to be dropped, but: {status} {output}"


def closed(client, source: str, address: str, port: int, protocol: str = "tcp") -> None:
    """Nobody serves there; refusing is as good as dropping."""
    status, output = ask(client, source, address, port, protocol)
    assert status in (3, 4), f"{protocol} {source} -> {address}:{port} was answered: {output}"


def all_closed(client, questions: list[tuple[str, str, int, str]]) -> None:
    """As `closed` for many questions (source, address, port, protocol), sixteen at a time."""
    lines = "\n".join(f"{protocol} {source} {address} {port}" for source, address, port, protocol in questions)
    answers = client.succeed(
        "xargs -P 16 -I {} sh -c 'peer ask {} >/dev/null 2>&1; echo $? {}' <<'END'\n" + lines + "\nEND"
    ).splitlines()
    assert len(answers) == len(questions), answers
    opened = [answer for answer in answers if answer.split()[0] not in ("3", "4")]
    assert not opened, opened


def mapped_traffic_is_served(mode: str, seen: str | None = "10.0.0.2") -> None:
    """TCP and UDP over both external interfaces for allowed sources, and for nobody else; `seen` is the client as the pod sees it."""
    # By name: not every scenario has them all.
    clients = {machine.name: machine for machine in machines}
    client1 = clients["client1"]
    for client, source, address in ((client1, ALLOWED, WAN0), (clients["client2"], ALLOWED_BY_WAN1, WAN1)):
        for port, protocol in ((80, "tcp"), (53, "udp")):
            pod, peer = served(client, source, address, port, protocol).split()
            assert pod in ("pod1", "pod2"), pod
            assert peer == (seen or source), f"{mode}: the pod saw {peer} for {source}"
    for port, protocol in ((80, "tcp"), (53, "udp")):
        silent(client1, DENIED, WAN0, port, protocol)
        # Not mapped: another port, and another address of the same interface.
        closed(client1, ALLOWED, WAN0, port + 1, protocol)
        closed(client1, ALLOWED, WAN0_B, port, protocol)


def programmed(name: str = "web") -> None:
    cp.wait_until_succeeds(
        f"KUBECONFIG=/etc/kubeconfig kubectl wait --for=condition=Programmed mapping/{name} --timeout=5s", timeout=120
    )


def until(what: str, condition, seconds: int = 120) -> None:
    """Waits for a condition of several machines."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.5)
