//! A phone that does what a test says: text out, text in.

use crate::{DEADLINE, SDP};
use md5::{Digest, Md5};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

enum Wire {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, buffer: Vec<u8> },
}

pub struct Phone {
    wire: Wire,
    pub account: &'static str,
    local: SocketAddr,
    counter: u32,
}

/// The value of a header.
pub fn header<'a>(text: &'a str, name: &str) -> &'a str {
    let prefix = format!("{name}: ");
    text.split("\r\n").find_map(|line| line.strip_prefix(prefix.as_str())).unwrap_or_default()
}

fn hash(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&Md5::digest(text.as_bytes()))
}

fn quoted<'a>(challenge: &'a str, name: &str) -> &'a str {
    let start = challenge.find(&format!("{name}=\"")).expect("in the challenge") + name.len() + 2;
    challenge[start..].split('"').next().expect("a quote ends")
}

impl Phone {
    pub async fn udp(node: SocketAddr, account: &'static str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        socket.connect(node).await.expect("loopback");
        let local = socket.local_addr().expect("bound");
        Self { wire: Wire::Udp(socket), account, local, counter: 0 }
    }

    pub async fn tcp(node: SocketAddr, account: &'static str) -> Self {
        let stream = TcpStream::connect(node).await.expect("connected");
        let local = stream.local_addr().expect("bound");
        Self { wire: Wire::Tcp { stream, buffer: Vec::new() }, account, local, counter: 0 }
    }

    pub async fn send(&mut self, text: &str) {
        match &mut self.wire {
            Wire::Udp(socket) => drop(socket.send(text.as_bytes()).await.expect("sent")),
            Wire::Tcp { stream, .. } => stream.write_all(text.as_bytes()).await.expect("sent"),
        }
    }

    /// The next message.
    pub async fn receive(&mut self) -> String {
        timeout(DEADLINE, self.next()).await.expect("a message in time").expect("an open connection")
    }

    /// `None` when the connection was closed.
    pub async fn next(&mut self) -> Option<String> {
        match &mut self.wire {
            Wire::Udp(socket) => {
                let mut buffer = vec![0; 65_536];
                let length = socket.recv(&mut buffer).await.ok()?;
                Some(String::from_utf8(buffer[..length].to_vec()).expect("UTF-8"))
            }
            Wire::Tcp { stream, buffer } => loop {
                if buffer.starts_with(b"\r\n") {
                    buffer.drain(..2);
                    return Some("\r\n".into());
                }
                if let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    let text = String::from_utf8(buffer[..head].to_vec()).expect("UTF-8");
                    let length: usize = header(&text, "Content-Length").parse().expect("a length");
                    if buffer.len() >= head + 4 + length {
                        let whole = buffer.drain(..head + 4 + length).collect();
                        return Some(String::from_utf8(whole).expect("UTF-8"));
                    }
                }
                let mut chunk = [0; 4_096];
                let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
                buffer.extend_from_slice(&chunk[..count]);
            },
        }
    }

    /// The next message that starts so; others are passed over.
    pub async fn expect(&mut self, start: &str) -> String {
        loop {
            let text = self.receive().await;
            if text.starts_with(start) {
                return text;
            }
        }
    }

    fn via(&mut self) -> String {
        self.counter += 1;
        let transport = if matches!(self.wire, Wire::Udp(_)) { "UDP" } else { "TCP" };
        format!("SIP/2.0/{transport} {};rport;branch=z9hG4bK{}x{}", self.local, self.local.port(), self.counter)
    }

    pub fn request(&mut self, method: &str, uri: &str, call: &str, cseq: u32, extra: &str, body: &str) -> String {
        let (via, local, account) = (self.via(), self.local, self.account);
        let to = if method == "REGISTER" { format!("sip:{account}@peer.alt") } else { uri.to_owned() };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: {via}\r\nMax-Forwards: 70\r\nFrom: <sip:{account}@peer.alt>;tag=f{call}\r\nTo: <{to}>\r\n\
             Call-ID: {call}\r\nCSeq: {cseq} {method}\r\nContact: <sip:{account}@{local}>\r\n{extra}{kind}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn authorization(&self, challenge: &str, method: &str, uri: &str) -> String {
        let (realm, nonce, account) = (quoted(challenge, "realm"), quoted(challenge, "nonce"), self.account);
        let ha1 = hash(&format!("{account}:{realm}:{account}"));
        let ha2 = hash(&format!("{method}:{uri}"));
        let response = hash(&format!("{ha1}:{nonce}:00000001:abc:auth:{ha2}"));
        format!(
            "Authorization: Digest username=\"{account}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", algorithm=MD5, qop=auth, nc=00000001, cnonce=\"abc\"\r\n"
        )
    }

    /// Sends a request and answers its challenge; gives the second one.
    pub async fn authenticated(&mut self, method: &str, uri: &str, call: &str, extra: &str, body: &str) -> String {
        let first = self.request(method, uri, call, 1, extra, body);
        self.send(&first).await;
        let challenge = self.expect("SIP/2.0 401").await;
        let answer = self.authorization(header(&challenge, "WWW-Authenticate"), method, uri);
        let second = self.request(method, uri, call, 2, &format!("{extra}{answer}"), body);
        self.send(&second).await;
        second
    }

    pub async fn invite(&mut self, who: &str, call: &str) -> String {
        let text = self.authenticated("INVITE", &format!("sip:{who}@peer.alt"), call, "", SDP).await;
        self.expect("SIP/2.0 100").await;
        text
    }

    /// A request inside the dialog that a message of the node shows. `called`: the node's message was a request.
    pub fn inside(&mut self, method: &str, shown: &str, cseq: u32, called: bool, body: &str) -> String {
        let via = self.via();
        let (mut from, mut to) = (header(shown, "From"), header(shown, "To"));
        if called {
            std::mem::swap(&mut from, &mut to);
        }
        let contact = header(shown, "Contact").trim_matches(['<', '>']);
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        format!(
            "{method} {contact} SIP/2.0\r\nVia: {via}\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:{}@{}>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            header(shown, "Call-ID"),
            self.account,
            self.local,
            body.len()
        )
    }

    pub fn reply(&self, request: &str, status: &str, tag: &str, body: &str) -> String {
        let to = header(request, "To");
        let to = if tag.is_empty() || to.contains(";tag=") { to.to_owned() } else { format!("{to};tag={tag}") };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        format!(
            "SIP/2.0 {status}\r\nVia: {}\r\nFrom: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\nContact: <sip:{}@{}>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            header(request, "Via"),
            header(request, "From"),
            header(request, "Call-ID"),
            header(request, "CSeq"),
            self.account,
            self.local,
            body.len()
        )
    }
}
