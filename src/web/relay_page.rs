//! The page for who runs a relay: what it gives away, in totals. Nobody's name, number or address is on it, so it needs no
//! token; it is on loopback like the rest.

use crate::relay::{MediaFor, RelayStatus};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Renewed by the browser so often, seconds.
const REFRESH: u32 = 5;

/// HTML. Every value is a number or a word of ours: nothing is to be escaped.
pub(super) fn page(status: Option<&RelayStatus>) -> String {
    let mut rows = String::new();
    let mut row = |name: &str, value: String| {
        // Writing into a string cannot fail.
        let _ = writeln!(rows, "<tr><th>{name}</th><td>{value}</td></tr>");
    };
    match status {
        None => row("Relay", "nothing is relayed ([relay] in the settings)".into()),
        Some(status) => {
            let media = match status.media {
                MediaFor::Off => "nobody",
                MediaFor::Members => "members",
                MediaFor::Anyone => "anyone",
            };
            row("Voice for", media.into());
            row(
                "Calls now",
                format!("{} of {} nodes in {} networks", status.allocations, status.nodes, status.networks),
            );
            row("Since the start", format!("{} given, {} renewed", status.granted, status.renewed));
            row("Passed on", format!("{} packets, {} MB", status.packets, megabytes(status.bytes)));
            let month = [status.month_bytes, status.month_promised, status.month_limit].map(megabytes);
            row("This month", format!("{} MB and {} MB promised, of {} MB", month[0], month[1], month[2]));
            row("Requests refused", reasons(&status.refused));
            row("Packets dropped", reasons(&status.dropped));
            let stun = status.stun_port.map_or_else(|| "off".into(), |port| format!("UDP port {port}"));
            row("Addresses told", format!("{stun}; {} answered, {} not", status.stun_answered, status.stun_refused));
        }
    }
    format!(
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content={REFRESH}><title>Peerline relay</title>\n\
         <style>body{{font:16px sans-serif;margin:2em}}th{{text-align:left;padding:.2em 1.5em .2em 0}}</style>\n\
         <h1>Peerline relay</h1>\n<table>\n{rows}</table>\n"
    )
}

fn megabytes(bytes: u64) -> u64 {
    bytes / 1_000_000
}

fn reasons(counts: &BTreeMap<String, u64>) -> String {
    match counts.is_empty() {
        true => "none".into(),
        false => counts.iter().map(|(why, count)| format!("{why}: {count}")).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_given_in_totals() {
        let status = RelayStatus {
            media: MediaFor::Anyone,
            allocations: 3,
            nodes: 2,
            networks: 1,
            month_bytes: 5_000_000,
            month_limit: 9_000_000,
            refused: [("full".to_owned(), 7)].into(),
            stun_port: Some(3_478),
            ..RelayStatus::default()
        };
        let page = page(Some(&status));
        for words in
            ["anyone", "3 of 2 nodes in 1 networks", "5 MB and 0 MB promised, of 9 MB", "full: 7", "UDP port 3478"]
        {
            assert!(page.contains(words), "{words}");
        }
        assert!(super::page(None).contains("nothing is relayed"));
    }
}
