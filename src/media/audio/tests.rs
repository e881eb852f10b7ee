use super::*;
use std::net::Ipv4Addr;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn phone(source: Source) -> AudioEndpoint {
    AudioEndpoint::bind(HERE, source, None).await.unwrap()
}

/// Waits until `phone` has heard so many packets.
async fn hears(phone: &AudioEndpoint, packets: u64) -> Heard {
    let heard = async {
        loop {
            if lock(&phone.ear).hears_at_least(packets) {
                return phone.heard();
            }
            tokio::time::sleep(PACKET_TIME).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), heard).await.unwrap()
}

#[tokio::test]
async fn two_phones_hear_each_others_tones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.wav");
    let a = AudioEndpoint::bind(HERE, Source::Tone(440.0), Some(path.clone())).await.unwrap();
    let b = phone(Source::Tone(1_200.0)).await;
    a.start(&b.answer(&a.offer()).unwrap()).unwrap();
    let (at_a, at_b) = (hears(&a, 50).await, hears(&b, 50).await);
    assert!(at_a.tone_hz.is_some_and(|hertz| (hertz - 1_200.0).abs() < 2.0), "{at_a:?}");
    assert!(at_b.tone_hz.is_some_and(|hertz| (hertz - 440.0).abs() < 2.0), "{at_b:?}");
    let heard = a.finish().await;
    assert!(heard.packets >= 50 && heard.lost == 0 && heard.first_packet_ms.is_some_and(|ms| ms < 5_000));
    let recorded = hound::WavReader::open(&path).unwrap();
    assert!(recorded.duration() as usize >= 50 * PACKET);
}

#[tokio::test]
async fn is_silent_on_hold_and_speaks_again() {
    let (a, b) = (phone(Source::Silence).await, phone(Source::Silence).await);
    let hold = String::from_utf8(b.answer(&a.offer_hold()).unwrap().to_vec()).unwrap();
    assert!(hold.contains("a=recvonly"), "{hold}");
    assert!(!b.far_end.borrow().unwrap().listens);
    b.answer(&a.offer()).unwrap();
    assert!(b.far_end.borrow().unwrap().listens);
    a.start(b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=audio 9 RTP/AVP 8\r\n").unwrap();
    assert!(!a.far_end.borrow().unwrap().listens);
}

#[tokio::test]
async fn answers_each_line_and_refuses_what_it_cannot() {
    let phone = phone(Source::Silence).await;
    let offer = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                 m=audio 4000 RTP/AVP 96 8 0 97\r\na=rtpmap:96 opus/48000/2\r\na=rtpmap:97 telephone-event/8000\r\n\
                 m=video 4002 RTP/AVP 99\r\n";
    let answer = String::from_utf8(phone.answer(offer.as_bytes()).unwrap().to_vec()).unwrap();
    let port = phone.address.port();
    assert!(answer.contains(&format!("m=audio {port} RTP/AVP 8 97\r\n")), "{answer}");
    assert!(answer.contains("m=video 0 RTP/AVP 99\r\n"), "{answer}");
    let opus = offer.replace("96 8 0 97", "96");
    assert!(matches!(phone.answer(opus.as_bytes()), Err(MediaError::BadSdp(_))));
    let secure = offer.replace("RTP/AVP", "RTP/SAVP");
    assert!(matches!(phone.answer(secure.as_bytes()), Err(MediaError::NoCrypto)));
    assert!(phone.answer(b"").is_err());
}
