"""Who sent how many packets to whom across the laboratory's Internet, counted by its core: what a call really used,
whatever the program says of itself."""

import json

import spaces

RULES = "".join(
    f"""
    set flows{v} {{
        type {address} . {address} . inet_proto . inet_service
        size 65535
        flags dynamic
        counter
    }}"""
    for v, address in ((4, "ipv4_addr"), (6, "ipv6_addr"))
)
TABLE = f"""
table inet flows {{{RULES}
    chain over {{
        type filter hook forward priority filter + 1;
        iifname "delay" meta l4proto {{ tcp, udp }} jump counting
    }}
    chain counting {{
        update @flows4 {{ ip saddr . ip daddr . meta l4proto . th dport }}
        update @flows6 {{ ip6 saddr . ip6 daddr . meta l4proto . th dport }}
    }}
}}"""
PROTOCOLS = {6: "tcp", 17: "udp"}


def count(core):
    """Packets by (source, destination, "tcp" or "udp", destination port) since the core began."""
    packets = {}
    for name in ("flows4", "flows6"):
        listed = json.loads(spaces.run(core, "nft", "-n", "-j", "list", "set", "inet", "flows", name))
        for part in listed["nftables"]:
            for element in part.get("set", {}).get("elem", []):
                element = element.get("elem", element)
                source, to, protocol, port = element["val"]["concat"]
                protocol = PROTOCOLS.get(protocol, protocol)
                packets[source, to, protocol, port] = element["counter"]["packets"]
    return packets


def since(core, before):
    return {key: n - before.get(key, 0) for key, n in count(core).items() if n > before.get(key, 0)}


def way(packets, sources, destinations, relays, voice):
    """How `voice` packets went from one home to another: "direct", "relay NAME", "circuit NAME", "framed"; None unseen.

    `relays` is {address: name}; ports below 1024 of a relay are the overlay's, others those that it opened for media."""
    best, words = voice, None
    for (source, to, protocol, port), n in packets.items():
        if source in sources and n >= best:
            if to in destinations:
                best, words = n, "direct" if protocol == "udp" else "framed direct"
            elif to in relays:
                best = n
                words = f"relay {relays[to]}" if protocol == "udp" and port >= 1024 else f"framed {protocol} {relays[to]}"
    return words
