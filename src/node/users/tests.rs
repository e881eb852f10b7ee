use super::*;
use crate::identity::{NodeSecret, Seed};

const DAY: u64 = 86_400_000;

fn overlay() -> OverlayId {
    OverlayId([7; 32])
}

#[test]
fn a_certificate_is_made_once_and_renewed_while_the_root_is_readable() {
    let home = tempfile::tempdir().unwrap();
    let dir = DataDir::open(&home.path().join("data")).unwrap();
    let identity = Seed::generate().identity();
    let device = NodeSecret::generate().public();
    let now = UnixMillis(1_800_000_000_000);
    assert!(matches!(certified(&dir, &identity.id, &overlay(), device, None, now), Err(UserError::Absent(_))));
    keep(&dir, &identity, None).unwrap();
    assert_eq!(list(&dir).unwrap(), [identity.id]);
    let first = certified(&dir, &identity.id, &overlay(), device, None, now).unwrap();
    let later = certified(&dir, &identity.id, &overlay(), device, None, UnixMillis(now.0 + 15 * DAY)).unwrap();
    assert_eq!(first.user.certificate, later.user.certificate);
    let renewed = certified(&dir, &identity.id, &overlay(), device, None, UnixMillis(now.0 + 21 * DAY)).unwrap();
    assert!(renewed.not_after > first.not_after);
    let elsewhere = certified(&dir, &identity.id, &OverlayId([8; 32]), device, None, now).unwrap();
    assert_ne!(elsewhere.user.certificate, first.user.certificate);
}

#[test]
fn a_locked_root_keeps_the_old_certificate_and_tells_in_time() {
    let home = tempfile::tempdir().unwrap();
    let dir = DataDir::open(&home.path().join("data")).unwrap();
    let identity = Seed::generate().identity();
    let device = NodeSecret::generate().public();
    let now = UnixMillis(1_800_000_000_000);
    keep(&dir, &identity, Some("correct horse")).unwrap();
    assert!(matches!(
        certified(&dir, &identity.id, &overlay(), device, None, now),
        Err(UserError::Key(KeyFileError::PassphraseNeeded { .. }))
    ));
    certified(&dir, &identity.id, &overlay(), device, Some("correct horse"), now).unwrap();
    let quiet = certified(&dir, &identity.id, &overlay(), device, None, UnixMillis(now.0 + 21 * DAY)).unwrap();
    assert!(quiet.notice.is_none());
    let told = certified(&dir, &identity.id, &overlay(), device, None, UnixMillis(now.0 + 25 * DAY)).unwrap();
    assert!(told.notice.unwrap().contains("more days"));
    assert!(certified(&dir, &identity.id, &overlay(), device, None, UnixMillis(now.0 + 31 * DAY)).is_err());
}
