//! Asks servers which address they see behind each of our sockets (RFC 8489 §6: repeated with growing pauses). Pure.

use super::agent::Transmit;
use super::stun::Transaction;
use crate::wire::stun;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Pauses after each time of asking. Servers are nodes nearby: who has not answered after 1.5 s will not.
const PAUSES: [u64; 3] = [200, 400, 900];
/// Servers that each socket asks: two, so that one that is gone or lies is not the only one.
const SERVERS: usize = 2;

#[derive(Default)]
pub(super) struct Gather {
    questions: Vec<Question>,
}

struct Question {
    from: SocketAddr,
    server: SocketAddr,
    transaction: Transaction,
    asked: usize,
    due: Instant,
}

impl Gather {
    /// Asks for the address of the socket `from`. Servers of the other family cannot say.
    pub(super) fn ask(&mut self, from: SocketAddr, servers: &[SocketAddr], now: Instant) {
        let fitting = servers.iter().filter(|server| server.is_ipv4() == from.is_ipv4());
        for server in fitting.take(SERVERS) {
            let mut transaction = [0; 12];
            if getrandom::fill(&mut transaction).is_ok() {
                self.questions.push(Question { from, server: *server, transaction, asked: 0, due: now });
            }
        }
    }

    /// The address of our socket `to` that a server sees. Only who was asked may answer, and once.
    pub(super) fn handle_packet(&mut self, from: SocketAddr, to: SocketAddr, packet: &[u8]) -> Option<SocketAddr> {
        let read = |question: &Question| stun::parse_reply(packet, &question.transaction);
        let asked = |question: &Question| (question.server, question.from) == (from, to) && read(question).is_some();
        let at = self.questions.iter().position(asked)?;
        read(&self.questions.swap_remove(at))
    }

    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.questions.retain(|question| question.asked < PAUSES.len() || now < question.due);
        let question = self.questions.iter_mut().find(|question| now >= question.due)?;
        question.due = now + Duration::from_millis(PAUSES[question.asked]);
        question.asked += 1;
        let packet = stun::binding_request(&question.transaction);
        Some(Transmit { from: question.from, to: question.server, packet })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.questions.iter().map(|question| question.due).min()
    }

    pub(super) fn is_done(&self) -> bool {
        self.questions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn asks_three_times_and_believes_whom_it_asked_once() {
        let (mut gather, mut now) = (Gather::default(), Instant::now());
        let servers = ["9.9.9.9:1", "[2a00::1]:1", "8.8.8.8:1", "7.7.7.7:1"].map(at);
        gather.ask(at("10.0.0.1:5"), &servers, now);
        let mut sent = Vec::new();
        while let Some(due) = gather.poll_timeout() {
            now = now.max(due);
            while let Some(transmit) = gather.poll_transmit(now) {
                sent.push(transmit);
            }
        }
        assert_eq!(sent.len(), 6, "two servers of its family");
        gather.ask(at("10.0.0.1:5"), &servers, now);
        let question = gather.poll_transmit(now).unwrap();
        let answer = stun::binding_reply(question.packet[8..20].first_chunk().unwrap(), at("5.5.5.5:500"));
        assert_eq!(gather.handle_packet(at("6.6.6.6:1"), question.from, &answer), None, "somebody else");
        assert_eq!(gather.handle_packet(question.to, at("10.0.0.1:6"), &answer), None, "another socket");
        assert_eq!(gather.handle_packet(question.to, question.from, &answer), Some(at("5.5.5.5:500")));
        assert_eq!(gather.handle_packet(question.to, question.from, &answer), None, "replayed");
    }
}
