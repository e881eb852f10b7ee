"""The kinds of homes: what stands between a host and the Internet, as nftables rules.

Words of RFC 4787: a mapping is endpoint-independent or not; filtering is endpoint-independent, address-dependent or
address and port-dependent. Linux' own masquerading keeps the port where it can and filters by address and port.
"""

from dataclasses import dataclass

INDEPENDENT, BY_ADDRESS, BY_PORT = "independent", "by address", "by address and port"


@dataclass(frozen=True)
class Kind:
    name: str
    words: str
    # What a prober must find; None: no UDP at all.
    mapping: str | None = INDEPENDENT
    filtering: str | None = BY_PORT
    preserves: bool = True
    v4: bool = True
    v6: bool = False
    # "none": the host has the public address itself.
    nat: str = "preserving"
    firewall: bool = True
    carrier: bool = False
    shared: bool = False
    # The router opens ports when a host asks (miniupnpd: PCP, NAT-PMP, UPnP).
    opens: bool = False
    # A rule for what leaves the home, before everything else.
    leaving: str = ""


KINDS = {
    kind.name: kind
    for kind in [
        Kind("public", "a public address, no NAT, no firewall", filtering=INDEPENDENT, nat="none", firewall=False),
        Kind("fullcone", "full cone", filtering=INDEPENDENT, nat="full cone"),
        Kind("addr", "address-restricted cone", filtering=BY_ADDRESS, nat="address-restricted"),
        Kind("portpres", "port-restricted, preserves ports"),
        Kind("bare", "port-restricted, preserves ports, a router without a firewall", firewall=False),
        Kind("portrand", "port-restricted, translates ports", preserves=False, nat="translating"),
        Kind("symmetric", "symmetric: another random port for each far end", mapping=BY_PORT, preserves=False, nat="symmetric"),
        Kind("cgnat", "a carrier's translating NAT above the home's", preserves=False, carrier=True),
        Kind("noudp", "UDP blocked", mapping=None, filtering=None, leaving="meta l4proto udp drop"),
        Kind("web", "TCP to port 443 only", mapping=None, filtering=None, leaving="tcp dport != 443 drop; meta l4proto != tcp drop"),
        Kind("ipv6", "IPv6 only, stateful firewall", v4=False, v6=True),
        Kind("dual", "IPv4 behind a port-restricted NAT, and IPv6 behind a firewall", v6=True),
        Kind("opening", "symmetric, a router that opens ports when asked", mapping=BY_PORT, preserves=False, nat="symmetric", opens=True),
        Kind("shared", "two hosts in one home, port-restricted", shared=True),
    ]
}

# The pairs of CI: what works, so that it stays so.
SHORT = [
    ("public", "portpres"), ("portpres", "public"), ("shared", "shared"), ("portrand", "cgnat"), ("fullcone", "symmetric"),
    ("symmetric", "portrand"), ("ipv6", "dual"), ("noudp", "fullcone"), ("web", "noudp"),
]


def router(kind, public, inner, seed=1):
    """The rules of a router with the interfaces `lan` and `wan`, whose IPv4 address is `public`, for one of its hosts."""
    return f"""
flush ruleset
table inet gate {{
    chain in {{
        type filter hook input priority filter; policy {"drop" if kind.firewall else "accept"};
        iifname != "wan" accept
        ct state established,related accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
    }}
    chain through {{
        type filter hook forward priority filter; policy drop;
        iifname "lan" jump leaving
        ct state established,related accept
        iifname "lan" accept
        ct status dnat accept
    }}
    chain leaving {{ {kind.leaving}
    }}
}}
{nat(kind.nat, public, inner, seed) if kind.v4 else ""}
{OPENED if kind.opens else ""}
"""


# Where miniupnpd writes its rules; `ct status dnat` lets through what they send in.
OPENED = """
table inet filter {
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
    chain asked { type nat hook prerouting priority dstnat + 1; jump prerouting_miniupnpd
    }
}"""


def nat(nat, public, inner, seed):
    arriving, leaving, sets = "", 'oifname "wan" masquerade', ""
    if nat == "translating":
        # The same port for a socket whatever it talks to, and not its own.
        ports = f"{public}:jhash ip saddr . %s sport mod 20000 seed {seed} offset 30000"
        leaving = "\n".join(
            f'oifname "wan" meta l4proto {proto} snat to {ports % proto}' for proto in ("udp", "tcp")
        ) + '\noifname "wan" masquerade'
    elif nat == "symmetric":
        leaving = 'oifname "wan" masquerade fully-random'
    elif nat in ("full cone", "address-restricted"):
        known = "udp dport @open" if nat == "full cone" else "ip saddr . udp dport @talked"
        arriving = f'iifname "wan" {known} dnat to {inner}'
        sets = """
    set open { type inet_service; flags dynamic,timeout; timeout 5m; }
    set talked { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 5m; }
    chain remembering {
        type filter hook postrouting priority srcnat - 1;
        oifname "wan" meta l4proto udp update @open { udp sport } update @talked { ip daddr . udp sport }
    }"""
    return f"""
table ip home {{{sets}
    chain arriving {{ type nat hook prerouting priority dstnat; {arriving}
    }}
    chain leaving {{ type nat hook postrouting priority srcnat; {leaving}
    }}
}}"""
