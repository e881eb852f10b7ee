//! RFC 3261 §18, RFC 5626 §3.5.1: sockets and streams.

use crate::phone::Phone;
use crate::{DEADLINE, Node};
use tokio::time::timeout;

#[tokio::test]
async fn a_double_crlf_on_tcp_is_answered_with_one() {
    let node = Node::start().await;
    let tcp = node.sip.status().borrow().tcp.expect("on");
    let mut phone = Phone::tcp(tcp, "alice").await;
    phone.send("\r\n\r\n").await;
    assert_eq!(phone.receive().await, "\r\n");
    // One message in pieces, two in one piece.
    let options = phone.request("OPTIONS", "sip:peer.alt", "o", 1, "", "");
    let (first, rest) = options.split_at(100);
    phone.send(first).await;
    tokio::task::yield_now().await;
    phone.send(rest).await;
    phone.expect("SIP/2.0 200").await;
    let more = phone.request("OPTIONS", "sip:peer.alt", "o", 2, "", "");
    phone.send(&format!("{options}{more}")).await;
    phone.expect("SIP/2.0 200").await;
    phone.expect("SIP/2.0 200").await;
}

#[tokio::test]
async fn a_stream_that_lost_its_framing_is_answered_and_closed() {
    let node = Node::start().await;
    let tcp = node.sip.status().borrow().tcp.expect("on");
    for bad in ["Content-Length: 99999999999999999999", "Content-Length: 5\r\nContent-Length: 0", "X: y"] {
        let mut phone = Phone::tcp(tcp, "alice").await;
        let text = phone.request("OPTIONS", "sip:peer.alt", "o", 1, "", "").replace("Content-Length: 0", bad);
        phone.send(&text).await;
        phone.expect("SIP/2.0 400").await;
        assert_eq!(timeout(DEADLINE, phone.next()).await.expect("closed in time"), None);
    }
    let mut phone = Phone::tcp(tcp, "alice").await;
    phone.send(&"x".repeat(40_000)).await;
    assert_eq!(timeout(DEADLINE, phone.next()).await.expect("closed in time"), None);
    node.status(|status| status.connections == 0 && status.refused.get("content-length") == Some(&3)).await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let node = Node::start().await;
    let tcp = node.sip.status().borrow().tcp.expect("on");
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut phone = Phone::tcp(tcp, "alice").await;
        phone.send("\r\n\r\n").await;
        phone.receive().await;
        open.push(phone);
    }
    let mut late = Phone::tcp(tcp, "alice").await;
    assert_eq!(timeout(DEADLINE, late.next()).await.expect("closed in time"), None);
    drop(open.pop());
    node.status(|status| status.connections == 15).await;
    let mut again = Phone::tcp(tcp, "alice").await;
    again.send("\r\n\r\n").await;
    again.receive().await;
}

#[tokio::test]
async fn udp_garbage_is_counted_and_the_node_lives() {
    let node = Node::start().await;
    let udp = node.sip.status().borrow().udp.expect("on");
    let mut phone = Phone::udp(udp, "alice").await;
    for text in ["\r\n\r\n", "", "x", "GET / HTTP/1.1\r\n\r\n", "INVITE sip:x SIP/2.0\r\n\r\n"] {
        phone.send(text).await;
    }
    phone.send(&"z".repeat(20_000)).await;
    let options = phone.request("OPTIONS", "sip:peer.alt", "o", 1, "", "");
    phone.send(&options).await;
    let ok = phone.receive().await;
    assert!(ok.starts_with("SIP/2.0 200") && ok.contains(";received=127.0.0.1;rport="), "{ok}");
    node.status(|status| status.refused.get("too-large") == Some(&1) && status.refused.contains_key("no-via")).await;
}
