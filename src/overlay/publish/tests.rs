//! Publications in virtual time.

use super::*;
use crate::overlay::sample::Person;

type Answer = oneshot::Receiver<Result<PublishReport, PublishError>>;

const MANY: Around = Around { servers: 10, served_here: true };

fn publication(person: &Person, now: Instant) -> (Publication, Answer) {
    let (reply, answer) = oneshot::channel();
    (Publication::new(person.bundle(1), person.keys(), reply, now), answer)
}

fn begun(person: &Person, servers: &[PeerId], now: Instant) -> (Publication, Answer) {
    let (mut publication, answer) = publication(person, now);
    let asks = publication.begin(|_| servers.to_vec(), MANY, now);
    let put = |index| Ask::Put { index, peers: servers.to_vec() };
    assert_eq!(asks, [put(0), put(1), put(2), put(3)]);
    (publication, answer)
}

fn after(start: Instant, millis: u64) -> Instant {
    start + Duration::from_millis(millis)
}

#[test]
fn alone_after_three_seconds_and_content_as_the_only_server_of_two() {
    let (person, start) = (Person::new(), Instant::now());
    let (mut publication, mut answer) = super::tests::publication(&person, start);
    let nobody = Around { servers: 0, served_here: false };
    assert!(publication.begin(|_| Vec::new(), nobody, after(start, 2_999)).is_empty());
    assert!(answer.try_recv().is_err());
    publication.begin(|_| Vec::new(), nobody, after(start, 3_000));
    assert!(matches!(answer.try_recv(), Ok(Err(PublishError::Alone))));
    assert!(publication.is_over());

    let (mut publication, mut answer) = super::tests::publication(&person, start);
    publication.begin(|_| Vec::new(), Around { servers: 0, served_here: true }, start);
    assert!(matches!(answer.try_recv(), Ok(Ok(PublishReport { copies: 0, .. }))));
}

#[test]
fn acknowledgements_start_the_reading_and_three_holders_end_it() {
    let (person, start) = (Person::new(), Instant::now());
    let servers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
    let (mut publication, mut answer) = begun(&person, &servers, start);
    publication.acknowledged(2, 2, after(start, 10));
    assert!(publication.tick(MANY, after(start, 10)).is_empty(), "two are not enough");
    publication.acknowledged(2, 3, after(start, 20));
    assert_eq!(publication.tick(MANY, after(start, 20)), [Ask::Get(2)]);
    assert!(publication.tick(MANY, after(start, 20)).is_empty(), "one reading at a time");

    let (same, older, newer) = (person.bundle(1), person.bundle(0), person.bundle(2));
    let now = after(start, 40);
    assert!(publication.read(servers[0], &same, MANY, now).is_empty());
    assert!(publication.read(servers[0], &same, MANY, now).is_empty(), "one peer is one copy");
    assert!(publication.read(servers[1], &older, MANY, now).is_empty(), "not what was published");
    assert!(publication.read(servers[2], &newer, MANY, now).is_empty(), "as good");
    assert!(answer.try_recv().is_err());
    assert_eq!(publication.read(servers[3], &same, MANY, now), [Ask::StopReading]);
    let report = answer.try_recv().unwrap().unwrap();
    assert_eq!((report.copies, report.took_ms), (3, 40));

    // Puts that still run are let run.
    assert!(!publication.is_over());
    (0..4).for_each(|index| publication.put(index, now));
    assert!(publication.read_ended(2, Vec::new(), now).is_empty());
    assert!(publication.is_over() && publication.succeeded(MANY));
}

#[test]
fn dead_peers_delay_a_reading_by_no_more_than_its_time() {
    let (person, start) = (Person::new(), Instant::now());
    let (mut publication, _answer) = begun(&person, &[PeerId::random()], start);
    assert!(publication.tick(MANY, after(start, 299)).is_empty());
    assert_eq!(publication.tick(MANY, after(start, 300)), [Ask::Get(0)]);
    // A slow reading does not hold up the next.
    assert!(publication.tick(MANY, after(start, 599)).is_empty());
    assert_eq!(publication.tick(MANY, after(start, 600)), [Ask::Get(1)]);
}

#[test]
fn who_has_nothing_twice_is_sent_it_again_and_too_few_copies_are_said() {
    let (person, start) = (Person::new(), Instant::now());
    let deaf = PeerId::random();
    let (mut publication, mut answer) = begun(&person, &[deaf], start);
    let (mut now, mut puts, mut gets) = (start, [1; 4], 0);
    (0..4).for_each(|index| publication.put(index, now));
    while !publication.is_over() {
        now += Duration::from_millis(10);
        for ask in publication.tick(MANY, now) {
            match ask {
                Ask::Get(index) => {
                    gets += 1;
                    for ask in publication.read_ended(index, vec![deaf], now) {
                        assert_eq!(ask, Ask::Put { index, peers: vec![deaf] });
                        puts[index] += 1;
                        publication.put(index, now);
                    }
                }
                other => assert_eq!(other, Ask::StopReading),
            }
        }
        assert!(now <= start + DEADLINE, "ends");
    }
    assert_eq!((puts, gets), ([4; 4], 4 * u32::from(MAX_READS)), "again after the second, third and fourth reading");
    assert!(matches!(answer.try_recv(), Ok(Err(PublishError::TooFew { copies: 0, wanted: 3 }))));
    assert!(!publication.succeeded(MANY));
}

#[test]
fn many_servers_are_searched_for_nearer_ones_one_key_after_the_other() {
    let (person, start) = (Person::new(), Instant::now());
    let (mut publication, _answer) = publication(&person, start);
    let many = Around { servers: REPLICATION, served_here: true };
    let known = PeerId::random();
    let asks = publication.begin(|_| vec![known], many, start);
    assert_eq!(asks.last(), Some(&Ask::Closest(0)));
    let nearer = PeerId::random();
    let asks = publication.searched(0, vec![known, nearer]);
    assert_eq!(asks, [Ask::Put { index: 0, peers: vec![nearer] }, Ask::Closest(1)], "only who was not sent it");
    assert_eq!(publication.searched(3, vec![known]), []);
}
