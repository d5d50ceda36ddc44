"""Nodes that measure: which they are, who is kept off them, and who is told when they come and go."""

from __future__ import annotations

from typing import Any

from autoprune.cluster.devices import Presence, nodes_with, off


def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": {"CPU": 1.0, **resources}}


NODES = [
    node("a"),
    node("b", pi4=1.0),
    node("c", alive=False, pi4=1.0),
    node("d", pi4=0.5),
    node("e", fpga=2.0),
]


def test_living_nodes_with_a_whole_device_measure() -> None:
    assert nodes_with("pi4", NODES) == ["b"]
    assert nodes_with("tpu", NODES) == []


def test_workers_are_kept_off_every_node_that_measures() -> None:
    assert off(["pi4", "fpga"], NODES) == {"ray.io/node-id": "!in(b,e)"}
    assert off(["tpu"], NODES) == off([], NODES) == {}


def test_it_says_once_what_is_not_there_and_what_comes_and_goes() -> None:
    said: list[str] = []
    presence = Presence(["pi4", "tpu"], NODES, said.append)
    assert presence.there == {"pi4": True, "tpu": False}
    assert said == ["no node has tpu: latency there is modelled, not measured"]
    for nodes in (NODES, NODES[:1], NODES[:1], NODES):
        presence.look(nodes)
    assert [line.partition(":")[0] for line in said[1:]] == [
        "no node has pi4 any more",
        "a node has pi4 again",
    ]
