use super::*;
use proptest::prelude::*;

const BARESIP: &str = "v=0\r\no=- 3853104420 1763222330 IN IP4 192.168.1.20\r\ns=-\r\nc=IN IP4 192.168.1.20\r\nt=0 0\r\n\
    a=tool:baresip 1.0.0\r\n\
    m=audio 31802 RTP/AVP 96 9 0 8 101\r\nb=AS:125\r\na=rtpmap:96 opus/48000/2\r\n\
    a=fmtp:96 stereo=1;sprop-stereo=1;maxaveragebitrate=28000\r\na=rtpmap:9 G722/8000\r\na=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=rtcp:31803\r\na=sendrecv\r\n\
    a=label:1\r\na=rtcp-rsize\r\na=ssrc:2749372632 cname:sip:a@example.org\r\na=ptime:20\r\n\
    m=video 31860 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\na=fmtp:97 packetization-mode=0;profile-level-id=42801f\r\n\
    a=sendrecv\r\n";

const LINPHONE: &str = "v=0\r\no=alice 2178 3482 IN IP4 10.0.0.7\r\ns=Talk\r\nc=IN IP4 10.0.0.7\r\nb=AS:380\r\nt=0 0\r\n\
    a=ice-pwd:8ee4c5fbd8a2d0c2b1f2ae29\r\na=ice-ufrag:8be7cd2b\r\n\
    a=rtcp-xr:rcvr-rtt=all:10000 stat-summary=loss,dup,jitt,TTL voip-metrics\r\na=record:off\r\n\
    m=audio 7078 RTP/SAVP 96 0 8 97 98\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\n\
    a=rtpmap:97 speex/16000\r\na=fmtp:97 vbr=on\r\na=rtpmap:98 telephone-event/48000\r\n\
    a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz\r\n\
    a=crypto:2 AES_CM_128_HMAC_SHA1_32 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz\r\n\
    a=crypto:3 AEAD_AES_128_GCM inline:MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3OA==\r\n\
    a=candidate:1 1 UDP 2130706303 10.0.0.7 7078 typ host\r\na=candidate:1 2 UDP 2130706302 10.0.0.7 7079 typ host\r\n\
    a=rtcp-fb:* trr-int 5000\r\na=rtcp-fb:* ccm tmmbr\r\n";

const DESK_PHONE_V6: &str = "v=0\no=root 8000 8000 IN IP6 fd00::20\ns=\nc=IN IP6 fd00::20\nt=0 0\n\
    m=audio 11780/1 RTP/AVP 9 0 8 18 101\na=rtpmap:18 G729/8000\na=fmtp:18 annexb=no\na=X-vendor:keep me\na=sendonly\n";

fn ours(ip: &str, lines: &[Option<Line>], other: &str) -> String {
    let origin = Origin { ip: ip.parse().unwrap(), session_id: 42, version: 3 };
    String::from_utf8(write(&rewrite(&parse(other.as_bytes()).unwrap(), &origin, lines)).unwrap()).unwrap()
}

fn plain(port: u16) -> Option<Line> {
    Some(Line { port, transport: Transport::Like { secure: false }, crypto: None, muxed: false, call: None })
}

fn sealed(port: u16) -> Option<Line> {
    let crypto = Some("1 AEAD_AES_128_GCM inline:AAAA".to_owned().into());
    Some(Line { port, transport: Transport::Like { secure: true }, crypto, muxed: true, call: None })
}

#[test]
fn baresip_towards_a_peer_keeps_everything_but_the_path() {
    let told = ours("203.0.113.5", &[sealed(40_000), sealed(40_002)], BARESIP);
    let expected = BARESIP
        .replace("- 3853104420 1763222330 IN IP4 192.168.1.20", "- 42 3 IN IP4 203.0.113.5")
        .replace("192.168.1.20", "203.0.113.5")
        .replace("audio 31802 RTP/AVP", "audio 40000 RTP/SAVP")
        .replace("video 31860 RTP/AVP", "video 40002 RTP/SAVP")
        .replace("a=rtcp:31803\r\n", "")
        .replace("m=video", "a=rtcp-mux\r\na=crypto:1 AEAD_AES_128_GCM inline:AAAA\r\nm=video")
        + "a=rtcp-mux\r\na=crypto:1 AEAD_AES_128_GCM inline:AAAA\r\n";
    assert_eq!(told, expected);
}

#[test]
fn linphone_brings_keys_of_its_own() {
    let session = parse(LINPHONE.as_bytes()).unwrap();
    let streams = streams(&session);
    let stream = streams[0].as_ref().unwrap();
    assert!(stream.secure && stream.sends && stream.listens);
    assert_eq!(
        stream.keys.iter().map(|(tag, key)| (*tag, key.suite)).collect::<Vec<_>>(),
        [(1, Suite::AesCm128HmacSha1_80), (3, Suite::AeadAes128Gcm)]
    );
    assert_eq!(stream.key(|suite| suite == Suite::AeadAes128Gcm).map(|(tag, _)| *tag), Some(3));
    let told = ours("203.0.113.5", &[plain(4_000)], LINPHONE);
    for gone in ["10.0.0.7", "alice", "crypto", "inline", "candidate", "ice-", "SAVP"] {
        assert!(!told.contains(gone), "{gone} in {told}");
    }
    for kept in ["s=Talk", "b=AS:380", "a=rtcp-xr:rcvr-rtt=all:10000", "a=record:off", "a=rtcp-fb:* ccm tmmbr"] {
        assert!(told.contains(kept), "{kept} not in {told}");
    }
}

#[test]
fn a_v6_phone_speaks_to_a_v4_one() {
    let session = parse(DESK_PHONE_V6.as_bytes()).unwrap();
    let streams = streams(&session);
    let stream = streams[0].as_ref().unwrap();
    assert_eq!(stream.rtp, Some("[fd00::20]:11780".parse().unwrap()));
    assert_eq!(stream.rtcp, Some("[fd00::20]:11781".parse().unwrap()));
    assert!(stream.sends && !stream.listens);
    let told = ours("203.0.113.5", &[plain(4_000)], DESK_PHONE_V6);
    assert!(told.contains("c=IN IP4 203.0.113.5") && !told.contains("fd00"));
    assert!(told.contains("s=-\r\n") && told.contains("m=audio 4000 RTP/AVP 9 0 8 18 101\r\n"));
    assert!(told.contains("a=X-vendor:keep me\r\na=sendonly\r\n"));
}

#[test]
fn hold_the_old_way_is_passed_on() {
    for (description, v6) in [(BARESIP, false), (DESK_PHONE_V6, true)] {
        let held = description
            .replace("c=IN IP4 192.168.1.20", "c=IN IP4 0.0.0.0")
            .replace("c=IN IP6 fd00::20", "c=IN IP6 ::");
        let session = parse(held.as_bytes()).unwrap();
        let stream = streams(&session).remove(0).unwrap();
        assert!(stream.rtp.is_none() && !stream.sends && !stream.listens);
        let told = ours("203.0.113.5", &[plain(4_000), plain(4_002)], &held);
        assert!(told.contains("c=IN IP4 203.0.113.5\r\n") && told.contains("c=IN IP4 0.0.0.0\r\n"), "{v6}: {told}");
    }
}

#[test]
fn carries_four_rtp_streams_and_rejects_the_rest_in_place() {
    let mut offer = BARESIP.to_owned();
    offer += "m=image 5000 udptl t38\r\na=T38FaxVersion:0\r\n";
    offer += "m=audio 5002 UDP/TLS/RTP/SAVPF 111\r\na=fingerprint:sha-256 AA:BB\r\na=setup:actpass\r\n";
    offer += "m=audio 0 RTP/AVP 0\r\n";
    offer += &"m=audio 6000 rtp/avpf 0\r\n".repeat(4);
    let session = parse(offer.as_bytes()).unwrap();
    let carried: Vec<bool> = streams(&session).iter().map(Option::is_some).collect();
    assert_eq!(carried, [true, true, false, false, false, true, true, false, false]);
    let lines: Vec<_> = carried.iter().map(|carried| if *carried { sealed(9_000) } else { None }).collect();
    let told = ours("203.0.113.5", &lines, &offer);
    assert!(told.contains("m=image 0 udptl t38\r\na=T38FaxVersion:0\r\n"));
    assert!(told.contains("m=audio 0 UDP/TLS/RTP/SAVPF 111\r\n") && !told.contains("fingerprint"));
    assert_eq!(told.matches("m=audio 9000 RTP/SAVPF 0").count(), 2);
    assert_eq!(told.matches("\r\nm=").count(), 9);
}

#[test]
fn bundles_and_capabilities_end_here() {
    let offer = BARESIP.replace(
        "a=tool:baresip 1.0.0",
        "a=group:BUNDLE 0 1\r\na=group:LS 0 1\r\na=tcap:1 RTP/SAVP\r\na=acap:1 crypto:1 X inline:secret",
    );
    let told = ours("203.0.113.5", &[plain(4_000), plain(4_002)], &offer);
    assert!(told.contains("a=group:LS 0 1") && !told.contains("BUNDLE") && !told.contains("secret"));
}

#[test]
fn nobody_is_at_a_multicast_address() {
    for address in ["224.2.1.1/127", "224.2.1.1", "255.255.255.255", "phone.example.org"] {
        let offer = BARESIP.replace("c=IN IP4 192.168.1.20", &format!("c=IN IP4 {address}"));
        let session = parse(offer.as_bytes()).unwrap();
        let stream = streams(&session).remove(0).unwrap();
        assert!(stream.rtp.is_none() && stream.rtcp.is_none() && stream.sends, "{address}");
    }
}

#[test]
fn the_rtcp_attribute_counts() {
    let moved = BARESIP.replace("a=rtcp:31803", "a=rtcp:53020 IN IP4 192.168.1.21");
    let session = parse(moved.as_bytes()).unwrap();
    assert_eq!(streams(&session)[0].as_ref().unwrap().rtcp, Some("192.168.1.21:53020".parse().unwrap()));
    let last = BARESIP.replace("audio 31802", "audio 65535").replace("a=rtcp:31803\r\n", "");
    assert_eq!(streams(&parse(last.as_bytes()).unwrap())[0].as_ref().unwrap().rtcp, None);
}

#[test]
fn refuses_what_is_too_long_or_has_too_many_lines() {
    let long = format!("{BARESIP}a=x:{}\r\n", "y".repeat(MAX_BYTES));
    let many = format!("{BARESIP}{}", "m=audio 6000 RTP/AVP 0\r\n".repeat(MAX_LINES));
    for bad in [long.as_str(), many.as_str(), "", "v=0\r\n", "INVITE sip:x SIP/2.0\r\n"] {
        assert!(matches!(parse(bad.as_bytes()), Err(MediaError::BadSdp(_))));
    }
}

#[test]
fn the_mirror_turns_directions_round() {
    let mut session = parse(DESK_PHONE_V6.as_bytes()).unwrap();
    mirror(&mut session);
    assert!(session.medias[0].has_attribute("recvonly") && !session.medias[0].has_attribute("sendonly"));
    mirror(&mut session);
    assert_eq!(session, parse(DESK_PHONE_V6.as_bytes()).unwrap());
}

fn attribute() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,12}(:[ -~]{1,40})?".prop_filter("not of the path", |line| {
        let name = line.split(':').next().unwrap_or_default();
        name != "group" && !PATH_ATTRIBUTES.contains(&name)
    })
}

proptest! {
    #[test]
    fn parsing_and_rewriting_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes).map(|session| streams(&session).len());
    }

    /// Changed bytes in a real description: whatever is still one can be told again, and reads the same.
    #[test]
    fn a_damaged_description_never_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        linphone in any::<bool>(),
    ) {
        let mut bytes = if linphone { LINPHONE } else { BARESIP }.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(session) = parse(&bytes) {
            let _ = streams(&session);
            let origin = Origin { ip: Ipv6Addr::LOCALHOST.into(), session_id: 1, version: 1 };
            let told = write(&rewrite(&session, &origin, &[plain(2), None])).unwrap();
            prop_assert_eq!(parse(&told).unwrap().medias.len(), session.medias.len());
        }
    }

    #[test]
    fn unknown_attributes_survive_in_order(
        session in proptest::collection::vec(attribute(), 0..6),
        media in proptest::collection::vec(attribute(), 0..6),
    ) {
        let lines = |attributes: &[String]| attributes.iter().map(|a| format!("a={a}\r\n")).collect::<String>();
        let (session, media) = (lines(&session), lines(&media));
        let offer = format!("v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nt=0 0\r\n{session}\
            m=audio 9 RTP/AVP 0\r\nc=IN IP4 10.0.0.1\r\n{media}");
        let told = ours("203.0.113.5", &[plain(4_000)], &offer);
        let expected = format!("v=0\r\no=- 42 3 IN IP4 203.0.113.5\r\ns=-\r\nc=IN IP4 203.0.113.5\r\nt=0 0\r\n{session}\
            m=audio 4000 RTP/AVP 0\r\n{media}");
        prop_assert_eq!(told, expected);
    }
}
