//! `doctor`: what this network is, which paths work, each tried for real, and what to do about those that do not.

use super::local::{self, Reach};
use super::words::{Progress, print, print_json};
use super::{Common, Outcome};
use crate::web::examine;
use serde_json::Value;
use std::fmt::Write as _;

/// A clock that is further off makes records look old or not yet valid.
const CLOCK_OFF_MS: u64 = 30_000;

pub(super) async fn doctor(common: &Common) -> anyhow::Result<Outcome> {
    let dir = common.dir()?;
    let reach = Reach::find(common, &dir).await?;
    let progress = Progress::start("trying every path", common.json);
    let found = match &reach {
        Reach::Running(run) => local::get(run, &dir, "/v1/doctor").await,
        Reach::Own(node) => Ok((200, serde_json::to_value(examine(&node.parts().overlay).await)?)),
    };
    progress.end("");
    reach.end().await;
    let (code, found) = found?;
    anyhow::ensure!(
        code == 200,
        "{}",
        found.get("error").and_then(Value::as_str).unwrap_or("the running node refused")
    );
    if common.json {
        print_json(&found)?;
    } else {
        lines(&found).iter().for_each(|line| print(line));
    }
    let well = flag(&found, "/can_be_called");
    Ok(if well { Outcome::Done } else { Outcome::No })
}

fn text<'a>(found: &'a Value, path: &str) -> &'a str {
    found.pointer(path).and_then(Value::as_str).unwrap_or("-")
}

fn flag(found: &Value, path: &str) -> bool {
    found.pointer(path).and_then(Value::as_bool).unwrap_or(false)
}

fn list<'a>(found: &'a Value, path: &str) -> &'a [Value] {
    found.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn took(tried: &Value) -> String {
    tried.get("rtt_ms").and_then(Value::as_u64).map_or_else(|| "no answer".to_owned(), |ms| format!("{ms} ms"))
}

/// Whether it answered, or another of its family did somewhere: who has no IPv6 need not be told so for each relay.
fn is_of_this_network(found: &Value, tried: &Value) -> bool {
    let answered = |tried: &Value| tried.get("rtt_ms").is_some_and(|ms| !ms.is_null());
    let place = |tried: &Value| {
        tried.get("address").or(tried.get("server")).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let all = ["/stun", "/quic", "/tcp"].into_iter().flat_map(|path| list(found, path)).filter(|tried| answered(tried));
    let families: Vec<bool> = all.map(|tried| place(tried).starts_with('[')).collect();
    answered(tried) || families.is_empty() || families.contains(&place(tried).starts_with('['))
}

/// The examination in words.
fn lines(found: &Value) -> Vec<String> {
    let peers = found.get("peers").and_then(Value::as_u64).unwrap_or(0);
    let mut lines = vec![format!("network   {}", network(found))];
    for seen in list(found, "/reach/seen_as").iter().filter_map(Value::as_str).take(3) {
        lines.push(format!("          others see this node at {seen}"));
    }
    lines.push(format!("overlay   {}, {peers} peers", text(found, "/standing")));
    for tried in list(found, "/stun") {
        let seen = tried.get("seen_as").and_then(Value::as_str).map(|at| format!(", seen as {at}")).unwrap_or_default();
        lines.push(format!("UDP       {}: {}{seen}", text(tried, "/server"), took(tried)));
    }
    for (name, path) in [("QUIC", "/quic"), ("TCP ", "/tcp")] {
        for tried in list(found, path).iter().filter(|tried| is_of_this_network(found, tried)) {
            lines.push(format!("{name}      {}: {}", text(tried, "/address"), took(tried)));
        }
    }
    for open in list(found, "/reach/open").iter().filter_map(Value::as_str) {
        lines.push(format!("router    lets others in at {open}, as this node asked it to"));
    }
    for tried in list(found, "/called") {
        lines.push(format!("reached   {}: {}", text(tried, "/circuit"), took(tried)));
    }
    lines.push(format!("self-call {}", self_call(found)));
    lines.push(format!("clock     {}", clock(found)));
    lines.push(format!("to do     {}", to_do(found)));
    let called = if flag(found, "/can_be_called") { "others can call you" } else { "others cannot call you now" };
    lines.push(format!("verdict   {called}"));
    lines
}

/// What the network is.
fn network(found: &Value) -> String {
    let blocked = if no_udp(found) { "; UDP does not pass" } else { "" };
    let mut seen = list(found, "/reach/seen_as").iter().filter_map(Value::as_str);
    let six = match flag(found, "/reach/ipv6") {
        true if seen.any(|at| !at.starts_with('[')) => "; IPv6 too",
        true => "; IPv6",
        false => "",
    };
    let mapping = match (text(found, "/reach/mapping"), text(found, "/mapping")) {
        // What was tried just now counts more than what was seen.
        (_, "one") | ("one", "-") => " that gives a socket one port for all destinations: most calls go directly",
        (_, "per destination") | ("per_destination", "-") => {
            " that gives a socket another port for each destination (symmetric): calls to homes like it go through a relay"
        }
        _ => "",
    };
    let kind = match text(found, "/reach/kind") {
        "public" => "public: others reach this node at its own address".to_owned(),
        "firewalled" => "a public address behind a firewall that lets nobody in".to_owned(),
        "behind_nat" => format!("behind a NAT{mapping}"),
        _ => format!("not known yet{}", if mapping.is_empty() { "" } else { ", a NAT it seems" }),
    };
    format!("{kind}{six}{blocked}")
}

/// Nobody answered over UDP, though somebody was asked, or the node found so by itself.
fn no_udp(found: &Value) -> bool {
    let tries = list(found, "/stun");
    let answered = tries.iter().any(|tried| tried.get("rtt_ms").is_some_and(|ms| !ms.is_null()));
    !answered && (flag(found, "/reach/udp_blocked") || !tries.is_empty())
}

fn self_call(found: &Value) -> String {
    let mut line = match flag(found, "/relay/good") {
        true => "heard both ways through a relay".to_owned(),
        false => format!("not heard: {}", text(found, "/relay/words")),
    };
    if let Some(address) = found.pointer("/relay/address").and_then(Value::as_str) {
        let _ = write!(line, " ({} at {address}", text(found, "/relay/relay"));
        if let Some(ms) = found.pointer("/relay/granted_ms").and_then(Value::as_u64) {
            let _ = write!(line, ", ports after {ms} ms");
        }
        if let Some(loss) = found.pointer("/relay/loss_percent").and_then(Value::as_f64) {
            let _ = write!(line, ", {loss} % lost");
        }
        line.push(')');
    }
    line
}

fn clock(found: &Value) -> String {
    match found.get("clock_ahead_ms").and_then(Value::as_i64) {
        None => "not compared: fewer than three nodes have told theirs".to_owned(),
        Some(ahead) => {
            let side = if ahead < 0 { "behind" } else { "ahead of" };
            let off = ahead.unsigned_abs();
            let warning = if off > CLOCK_OFF_MS { ": set it, or others take your records for invalid" } else { "" };
            format!("{:.1} s {side} that of others{warning}", off as f64 / 1_000.0)
        }
    }
}

/// What its owner can do, if anything.
fn to_do(found: &Value) -> String {
    let port = list(found, "/listen")
        .iter()
        .filter_map(Value::as_str)
        .filter(|address| !address.starts_with("/ip4/127.") && !address.starts_with("/ip6/::1/"))
        .find_map(|address| address.split('/').nth(4)?.parse::<u16>().ok());
    let port = port.map_or_else(|| "the port of this node".to_owned(), |port| format!("port {port}"));
    if found.get("peers").and_then(Value::as_u64).unwrap_or(0) == 0 {
        return "no other node is reached: see whether this machine is online, or name a node with --bootstrap"
            .to_owned();
    }
    match text(found, "/reach/kind") {
        _ if no_udp(found) => {
            "let UDP out in the firewall: without it the voice goes over TCP and is late when packets are lost"
                .to_owned()
        }
        "firewalled" => {
            format!("nothing must be opened; TCP and UDP {port} let in would make this node reachable directly")
        }
        "behind_nat" if !list(found, "/reach/open").is_empty() => {
            "nothing: the router has opened a port when it was asked".to_owned()
        }
        "behind_nat" => {
            format!("nothing must be opened; TCP and UDP {port} forwarded to this machine would spare the relays")
        }
        _ => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at_home() -> Value {
        json!({
            "peers": 5, "standing": "joined", "can_be_called": true, "clock_ahead_ms": -1500,
            "reach": { "kind": "behind_nat", "mapping": "unknown", "ipv6": false, "udp_blocked": false,
                       "seen_as": ["9.9.9.9:4001/udp"] },
            "listen": ["/ip4/127.0.0.1/tcp/1/p2p/x", "/ip4/192.168.1.10/tcp/4001/p2p/x"],
            "stun": [{ "server": "8.8.8.8:3478", "rtt_ms": 60, "seen_as": "9.9.9.9:5000" }],
            "mapping": "one", "tcp": [], "called": [],
            "relay": { "good": true, "relay": "12D3", "address": "8.8.8.8:30000", "granted_ms": 61, "loss_percent": 0.0 },
        })
    }

    #[test]
    fn a_home_is_told_in_words() {
        let told = lines(&at_home()).join("\n");
        for words in [
            "behind a NAT that gives a socket one port",
            "8.8.8.8:3478: 60 ms, seen as 9.9.9.9:5000",
            "heard both ways",
            "ports after 61 ms, 0 % lost",
            "1.5 s behind that of others",
            "TCP and UDP port 4001 forwarded",
            "others can call you",
        ] {
            assert!(told.contains(words), "`{words}` in\n{told}");
        }
    }

    #[test]
    fn ways_to_relays_and_ports_that_the_router_opened_are_named() {
        let mut found = at_home();
        found["reach"]["open"] = json!(["9.9.9.9:4001/quic"]);
        found["quic"] = json!([{ "address": "8.8.8.8:443", "rtt_ms": 61 }]);
        found["tcp"] = json!([{ "address": "8.8.8.8:443", "rtt_ms": null }]);
        let told = lines(&found).join("\n");
        for words in [
            "QUIC      8.8.8.8:443: 61 ms",
            "TCP       8.8.8.8:443: no answer",
            "lets others in at 9.9.9.9:4001/quic",
            "nothing: the router",
        ] {
            assert!(told.contains(words), "`{words}` in\n{told}");
        }
    }

    #[test]
    fn what_does_not_work_is_said() {
        let mut found = at_home();
        found["stun"][0]["rtt_ms"] = Value::Null;
        found["relay"] = json!({ "good": false, "words": "no media relay is known" });
        found["clock_ahead_ms"] = json!(90_000);
        found["can_be_called"] = json!(false);
        let told = lines(&found).join("\n");
        for words in
            ["UDP does not pass", "let UDP out", "not heard: no media relay is known", "set it, or", "cannot call"]
        {
            assert!(told.contains(words), "`{words}` in\n{told}");
        }
        assert!(lines(&json!({})).join("\n").contains("no other node is reached"));
    }
}
