"""Topologies: degrees, symmetry, connectivity, determinism, and clear errors."""

from itertools import pairwise

import networkx as nx
import pytest
import torch
from torch import Tensor

from mmkd.functional.mixing import contraction, metropolis_weights, neighbourhood_average
from mmkd.topology import (
    Complete,
    DirectedCycle,
    EdgeList,
    ErdosRenyi,
    Hypercube,
    Islands,
    NetworkX,
    OnePeerExponential,
    Path,
    RandomMatching,
    RandomRegular,
    Ring,
    SmallWorld,
    Star,
    Topology,
)
from mmkd.types import ConfigError

UNDIRECTED = [
    Ring(),
    Path(),
    Star(),
    Complete(),
    Hypercube(),
    Islands(count=2),
    RandomRegular(3),
    RandomMatching(),
    ErdosRenyi(0.5),
    SmallWorld(4, 0.2),
    NetworkX("cycle_graph", {"n": 8}),
]
DIRECTED = [DirectedCycle(), OnePeerExponential()]
RANDOM = [RandomRegular(3), RandomMatching(), ErdosRenyi(0.5), SmallWorld(4, 0.5)]


def names(count: int) -> list[str]:
    return [f"cameras/{k}" for k in range(count)]


def graph_of(adjacency: Tensor) -> nx.DiGraph:
    """The graph whose edges lead from sender to receiver, as networkx has them."""
    return nx.from_numpy_array(adjacency.T.int().numpy(), create_using=nx.DiGraph)


def label(topology: Topology) -> str:
    return type(topology).__name__


# --- laws that all keep ----------------------------------------------------------------------------


@pytest.mark.parametrize("topology", UNDIRECTED + DIRECTED, ids=label)
def test_shape_and_diagonal(topology):
    heard = topology.adjacency(names(8), 3)
    assert heard.shape == (8, 8)
    assert heard.dtype == torch.bool
    assert not heard.diagonal().any()
    assert heard.any()


@pytest.mark.parametrize("topology", UNDIRECTED, ids=label)
def test_undirected_graphs_are_symmetric_and_mix(topology):
    heard = topology.adjacency(names(8), 0)
    assert torch.equal(heard, heard.T)
    torch.testing.assert_close(metropolis_weights(heard).sum(0), torch.ones(8, dtype=torch.float64))


@pytest.mark.parametrize("topology", DIRECTED, ids=label)
def test_directed_graphs_have_one_neighbour_each_way(topology):
    heard = topology.adjacency(names(8), 0)
    assert (heard.sum(0) == 1).all()
    assert (heard.sum(1) == 1).all()
    assert not torch.equal(heard, heard.T)


@pytest.mark.parametrize("topology", UNDIRECTED + DIRECTED, ids=label)
def test_no_peers_is_an_error(topology):
    with pytest.raises(ConfigError, match="there are none"):
        topology.adjacency([], 0)


@pytest.mark.parametrize(
    "topology",
    [
        Ring(),
        Path(),
        Star(),
        Complete(),
        DirectedCycle(),
        Hypercube(),
        RandomMatching(),
        OnePeerExponential(),
    ],
    ids=label,
)
def test_a_single_peer_has_no_neighbours(topology):
    assert topology.adjacency(["alone"], 2).tolist() == [[False]]


@pytest.mark.parametrize("topology", UNDIRECTED + DIRECTED, ids=label)
@pytest.mark.parametrize("round_", [0, 1])
def test_edges_are_the_adjacency(topology, round_):
    peers = names(8)
    edges = topology.edges(peers, round_)
    assert len(set(edges)) == len(edges)
    if topology.hub is not None:
        return
    heard = topology.adjacency(peers, round_)
    assert len(edges) == int(heard.sum())
    assert all(heard[peers.index(receiver), peers.index(sender)] for sender, receiver in edges)


# --- fixed graphs ----------------------------------------------------------------------------------


def test_ring_and_path_by_hand():
    t, f = True, False
    assert Path().adjacency(names(4), 0).tolist() == [[f, t, f, f], [t, f, t, f], [f, t, f, t], [f, f, t, f]]
    assert Ring().adjacency(names(4), 0).tolist() == [[f, t, f, t], [t, f, t, f], [f, t, f, t], [t, f, t, f]]
    assert Ring().adjacency(names(2), 0).tolist() == [[f, t], [t, f]]


@pytest.mark.parametrize("size", [3, 5, 8])
def test_degrees(size):
    peers = names(size)
    assert (Ring().adjacency(peers, 0).sum(1) == 2).all()
    assert sorted(Path().adjacency(peers, 0).sum(1).tolist()) == [1, 1] + [2] * (size - 2)
    assert (Complete().adjacency(peers, 0).sum(1) == size - 1).all()


def test_everything_of_a_star_crosses_its_hub():
    star, peers = Star("server"), names(3)
    assert star.hub == "server"
    assert torch.equal(star.adjacency(peers, 0), Complete().adjacency(peers, 0))
    up = [(peer, "server") for peer in peers]
    assert sorted(star.edges(peers, 0)) == sorted(up + [(hub, peer) for peer, hub in up])
    with pytest.raises(ConfigError, match="both called 'server'"):
        star.adjacency(["server", "other"], 0)


def test_hypercube():
    heard = Hypercube().adjacency(names(16), 0)
    assert nx.is_isomorphic(graph_of(heard).to_undirected(), nx.hypercube_graph(4))
    with pytest.raises(ConfigError, match="there are 6"):
        Hypercube().adjacency(names(6), 0)


@pytest.mark.parametrize(("size", "step"), [(5, 1), (5, 2), (8, 3), (2, 1)])
def test_a_directed_cycle_reaches_all_in_size_minus_one_rounds_and_not_before(size, step):
    reach = torch.eye(size) + DirectedCycle(step).adjacency(names(size), 0)
    assert (torch.linalg.matrix_power(reach, size - 1) > 0).all()
    assert not (torch.linalg.matrix_power(reach, size - 2) > 0).all()


def test_a_directed_cycle_hears_the_one_before():
    assert DirectedCycle().edges(["a", "b", "c"], 0) == [("a", "b"), ("b", "c"), ("c", "a")]
    with pytest.raises(ConfigError, match="make 2 cycles"):
        DirectedCycle(2).adjacency(names(4), 0)


def test_contraction_orders_graphs():
    """More edges agree sooner; a complete graph at once."""
    path, ring, cube, complete = (
        contraction(metropolis_weights(t.adjacency(names(8), 0)))
        for t in (Path(), Ring(), Hypercube(), Complete())
    )
    assert 1 > path > ring > cube > complete
    assert complete < 1e-12
    assert contraction(metropolis_weights(Islands(count=2).adjacency(names(8), 0))) > 1 - 1e-12


# --- islands ---------------------------------------------------------------------------------------


def test_counted_islands_are_blocks():
    heard = Islands(count=3).adjacency(names(7), 0)
    sizes = sorted(len(c) for c in nx.connected_components(graph_of(heard).to_undirected()))
    assert sizes == [2, 2, 3]
    homes = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    assert torch.equal(heard, (homes[:, None] == homes) & Complete().adjacency(names(7), 0))


def test_named_islands_hear_their_own():
    islands = Islands(among={"north": ["a", "c"], "south": ["b", "phones"]})
    peers = ["a", "b", "c", "phones/0", "phones/1"]
    edges = {frozenset(edge) for edge in islands.edges(peers, 0)}
    south = [{"b", "phones/0"}, {"b", "phones/1"}, {"phones/0", "phones/1"}]
    assert edges == {frozenset(pair) for pair in [{"a", "c"}, *south]}
    islands.check(peers)


def test_named_islands_go_on_without_those_who_sit_out():
    islands = Islands(among={"north": ["a", "c"], "south": ["b"]})
    assert islands.edges(["a", "c"], 0) == [("a", "c"), ("c", "a")]


@pytest.mark.parametrize(
    ("islands", "message"),
    [
        (Islands(among={"north": ["a", "b"], "south": ["z"]}), "island 'south' names 'z', which is no peer"),
        (Islands(among={"north": ["a"]}), "'b' must be on one island, and it is on 0"),
        (Islands(among={"north": ["a", "b"], "south": ["b"]}), "'b' must be on one island, and it is on 2"),
        (Islands(count=3), "2 peers cannot make 3 islands"),
    ],
)
def test_islands_refuse(islands, message):
    with pytest.raises(ConfigError, match=message):  # noqa: PT012
        islands.check(["a", "b"])
        islands.adjacency(["a", "b"], 0)


def test_islands_need_one_of_two():
    for arguments in ({}, {"count": 2, "among": {"north": ["a"]}}):
        with pytest.raises(ConfigError, match="not both"):
            Islands(**arguments)


# --- random graphs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", RANDOM, ids=label)
def test_the_same_seed_is_the_same_graph(topology):
    """Across objects, calls and whatever else drew random numbers; and another seed is another graph."""
    arguments = vars(topology)
    before = torch.random.get_rng_state()
    first = topology.adjacency(names(20), 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(type(topology)(**arguments).adjacency(names(20), 4), first)
    other = type(topology)(**(arguments | {"seed": 1}))
    assert not torch.equal(other.adjacency(names(20), 4), first)


@pytest.mark.parametrize("topology", RANDOM, ids=label)
def test_graphs_are_drawn_every_so_many_rounds(topology):
    again = type(topology)(**(vars(topology) | {"every": 3}))
    graphs = [again.adjacency(names(20), t) for t in range(7)]
    equal = [torch.equal(a, b) for a, b in pairwise(graphs)]
    assert equal == [True, True, False, True, True, False]
    with pytest.raises(ConfigError, match="every must be at least 1"):
        type(topology)(**(vars(topology) | {"every": 0}))


@pytest.mark.parametrize("topology", [RandomRegular(3), ErdosRenyi(0.5), SmallWorld(4, 0.5)], ids=label)
def test_graphs_are_drawn_once_unless_told_otherwise(topology):
    assert torch.equal(topology.adjacency(names(20), 0), topology.adjacency(names(20), 50))


@pytest.mark.parametrize(("size", "degree"), [(8, 3), (9, 4), (6, 5), (5, 0)])
def test_random_regular_degrees(size, degree):
    heard = RandomRegular(degree, seed=2).adjacency(names(size), 0)
    assert (heard.sum(1) == degree).all()


def test_random_regular_is_usually_connected():
    """A 4-regular graph of 32 disconnects with probability below 1e-3, so 20 seeds should not."""
    for seed in range(20):
        assert nx.is_strongly_connected(graph_of(RandomRegular(4, seed=seed).adjacency(names(32), 0)))


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        (RandomRegular(5), "degree 5 is impossible with 5 peers"),
        (RandomRegular(3), "5 peers cannot all have 3 neighbours"),
        (SmallWorld(3, 0.1), "degree 3 is impossible"),
        (SmallWorld(6, 0.1), "degree 6 is impossible"),
    ],
)
def test_random_graphs_refuse(topology, message):
    with pytest.raises(ConfigError, match=message):
        topology.adjacency(names(5), 0)


def test_erdos_renyi_has_the_edges_that_it_should():
    assert not ErdosRenyi(0.0).adjacency(names(9), 0).any()
    assert torch.equal(ErdosRenyi(1.0).adjacency(names(9), 0), Complete().adjacency(names(9), 0))
    pairs = 100 * 99 / 2
    edges = float(ErdosRenyi(0.3).adjacency(names(100), 0).sum()) / 2
    assert abs(edges - 0.3 * pairs) < 5 * (pairs * 0.3 * 0.7) ** 0.5


def test_small_world_is_a_connected_lattice_rewired():
    lattice = SmallWorld(4, 0.0).adjacency(names(20), 0)
    distance = (torch.arange(20)[:, None] - torch.arange(20)).abs()
    distance = torch.minimum(distance, 20 - distance)
    assert torch.equal(lattice, (distance > 0) & (distance <= 2))
    rewired = SmallWorld(4, 0.5).adjacency(names(20), 0)
    assert int(rewired.sum()) == int(lattice.sum())
    assert nx.is_strongly_connected(graph_of(rewired))
    assert not torch.equal(rewired, lattice)


# --- graphs that change ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 7, 8])
def test_random_matching_pairs(size):
    rounds = [RandomMatching().adjacency(names(size), t) for t in range(5)]
    for heard in rounds:
        assert int(heard.sum()) == 2 * (size // 2)
        assert heard.sum(1).max() == 1
    assert size == 2 or any(not torch.equal(rounds[0], heard) for heard in rounds[1:])


@pytest.mark.parametrize("size", [2, 3, 6, 8, 13])
def test_one_peer_exponential_connects_over_its_period(size):
    period = (size - 1).bit_length()
    rounds = [OnePeerExponential().adjacency(names(size), t) for t in range(period)]
    assert nx.is_strongly_connected(graph_of(torch.stack(rounds).any(0)))
    reach = torch.eye(size)
    for heard in rounds:
        assert (heard.sum(1) == 1).all()
        reach = (torch.eye(size) + heard) @ reach
    assert (reach > 0).all()
    assert torch.equal(OnePeerExponential().adjacency(names(size), period), rounds[0])


@pytest.mark.parametrize("size", [2, 4, 16])
def test_one_peer_exponential_averages_exactly(size):
    """For powers of two the product of (I + P^(2^t)) / 2 is the sum of all P^k over n: the mean."""
    product = torch.eye(size, dtype=torch.float64)
    for t in range((size - 1).bit_length()):
        heard = OnePeerExponential().adjacency(names(size), t)
        product = neighbourhood_average(heard, torch.ones(size)) @ product
    torch.testing.assert_close(product, torch.full_like(product, 1 / size))


# --- graphs from elsewhere -------------------------------------------------------------------------


def test_edge_list(tmp_path):
    file = tmp_path / "graph.txt"
    file.write_text("# who talks\na b\n\nb c  # and hears\n")
    undirected, directed = EdgeList(str(file)), EdgeList(str(file), directed=True)
    assert directed.edges(["a", "b", "c"], 0) == [("a", "b"), ("b", "c")]
    both = [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]
    assert undirected.edges(["a", "b", "c"], 0) == both
    assert undirected.edges(["b", "c"], 0) == [("b", "c"), ("c", "b")]
    undirected.check(["a", "b", "c", "apart"])


def test_edge_list_reads_what_networkx_writes(tmp_path):
    peers = names(10)
    graph = nx.relabel_nodes(nx.petersen_graph(), dict(enumerate(peers)))
    nx.write_edgelist(graph, tmp_path / "graph.txt", data=False)
    heard = EdgeList(str(tmp_path / "graph.txt")).adjacency(peers, 0)
    assert torch.equal(heard, NetworkX("petersen_graph").adjacency(peers, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\nb z", "line 2: 'z' is no peer"),
        ("a b 3", "line 1: 'a b 3' is not the names of two different peers"),
        ("a a", "line 1"),
    ],
)
def test_edge_list_refuses(tmp_path, text, message):
    file = tmp_path / "graph.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        EdgeList(str(file)).check(["a", "b"])


def test_edge_list_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        EdgeList(str(tmp_path / "none.txt")).check(["a"])


def test_networkx_graphs_by_object_and_by_name():
    graph = nx.DiGraph([("x", "y"), ("y", "z")])
    assert NetworkX(graph).edges(["a", "b", "c"], 0) == [("a", "b"), ("b", "c")]
    heard = NetworkX("cycle_graph", {"n": 5}).adjacency(names(5), 0)
    assert torch.equal(heard, Ring().adjacency(names(5), 0))


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        (NetworkX("petersen_graph"), "10 nodes, and there are 5 peers"),
        (NetworkX("no_such_graph"), "no graph generator 'no_such_graph'"),
        (NetworkX("cycle_graph", {"size": 5}), "refuses"),
        (NetworkX("density", {"G": nx.path_graph(2)}), "no networkx graph"),
    ],
)
def test_networkx_refuses(topology, message):
    with pytest.raises(ConfigError, match=message):
        topology.adjacency(names(5), 0)
