use super::*;
use crate::sip::guard::{Framing, check};

fn flow() -> Flow {
    let address = |text: &str| text.parse().expect("address");
    Flow::Udp { local: address("10.0.0.1:5060"), remote: address("10.0.0.9:40000") }
}

fn parse(text: &str) -> Result<Message, Unfit> {
    let raw = Bytes::from(text.to_owned());
    let shape = check(&raw, Framing::Datagram).expect("shape");
    Message::parse(&raw, &shape)
}

fn request(method: &str) -> String {
    format!(
        "{method} sip:b%40c@h SIP/2.0\r\nv: SIP/2.0/UDP 192.168.1.5:5060;rport;branch=z9hG4bKa, SIP/2.0/UDP x;branch=z9hG4bKb\r\n\
         f: \"A, <b>\" <sip:a@h>;tag=f1\r\nTo: sip:b@h\r\ni: c1\r\nCSeq: 7 {method}\r\nContent-Type: application/sdp\r\n\
         Route: <sip:p;lr>,\r\n <sip:q;lr>\r\nContent-Length: 4\r\n\r\nv=0\n"
    )
}

#[test]
fn reads_compact_folded_and_listed_headers() {
    let message = parse(&request("INVITE")).expect("message");
    assert_eq!(message.start, Start::Request { method: Method::Invite, uri: "sip:b%40c@h".into() });
    assert_eq!((message.call_id(), message.cseq(), message.cseq_method()), ("c1", 7, "INVITE"));
    assert_eq!((message.tag_of_from(), message.tag_of_to()), (Some("f1"), None));
    assert_eq!(message.branch(), Some("z9hG4bKa"));
    assert_eq!(message.list("Route").collect::<Vec<_>>(), ["<sip:p;lr>", "<sip:q;lr>"]);
    assert_eq!(message.sdp(), Ok(Some(Bytes::from_static(b"v=0\n"))));
}

#[test]
fn unknown_and_lower_case_methods_are_named_so() {
    assert_eq!(parse(&request("FROBNICATE")).expect_err("unknown"), Unfit::UnknownMethod);
    assert_eq!(parse(&request("invite")).expect_err("unknown"), Unfit::UnknownMethod);
}

#[test]
fn responses_say_where_the_request_came_from_and_keep_our_words() {
    let message = parse(&request("INVITE")).expect("message");
    let bytes =
        ReplyHead::of(&message, &flow(), "t9").response(486, "In another call\r\nX: y", &[("X-A", "1\r\nB: 2")], None);
    let text = std::str::from_utf8(&bytes).expect("text");
    assert!(text.starts_with("SIP/2.0 486 In another callX: y\r\n"), "{text}");
    assert!(
        text.contains("Via: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bKa;received=10.0.0.9;rport=40000, SIP/2.0/UDP x"),
        "{text}"
    );
    assert!(text.contains("\r\nTo: sip:b@h;tag=t9\r\n") && text.contains("\r\nX-A: 1B: 2\r\n"), "{text}");
    let shape = check(&bytes, Framing::Stream).expect("well formed");
    assert_eq!(shape.start, StartLine::Response { status: 486, words: "In another callX: y" });
}

#[test]
fn a_refused_request_is_answered_when_it_says_who_sent_it() {
    let broken = request("INVITE").replace("CSeq: 7 INVITE", "CSeq: 7 BYE");
    assert!(answer_to_refused(broken.as_bytes(), &flow(), 400, "CSeq Method Mismatch", &[]).is_some());
    let nobody = broken.replace("v: SIP", "x: SIP");
    assert!(answer_to_refused(nobody.as_bytes(), &flow(), 400, "Bad", &[]).is_none());
    let ack = broken.replace("INVITE sip", "ACK sip");
    assert!(answer_to_refused(ack.as_bytes(), &flow(), 400, "Bad", &[]).is_none());
}
