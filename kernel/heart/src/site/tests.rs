use super::{Line, Site, Spin, SpinSite};
use crate::cpu::CpuId;
use core::panic::Location;

#[test]
fn the_first_place_stays_until_it_is_changed() {
    let (site, other) = (Site::default(), Site::new());
    assert_eq!(site.to_string(), "an unknown place");
    assert!(site.get().is_none());
    let (first, second) = (Location::caller(), Location::caller());
    assert_eq!(site.get_or_set(first), first);
    assert_eq!(site.get_or_set(second), first);
    assert_eq!(site.get(), Some(first));
    assert_eq!(
        site.to_string(),
        format!("{}:{}", first.file(), first.line())
    );
    site.set(second);
    other.copy(&site);
    assert_eq!(other.get(), Some(second));
}

#[test]
fn a_spin_is_there_until_it_is_over() {
    let site = SpinSite::default();
    assert_eq!(site.get(), None);
    let here = Location::caller();
    let owner = CpuId::new(3).unwrap();
    let spin = Spin {
        lock: here,
        at: here,
        owner,
        since: None,
    };
    site.set(Some(spin));
    assert_eq!(site.get(), Some(spin));
    let since = Some(here);
    site.set(Some(Spin { since, ..spin }));
    let line = Line(here);
    assert_eq!(
        site.get().unwrap().to_string(),
        format!("at {line} for the lock made at {line}, which cpu3 holds since {line}")
    );
    site.set(None);
    assert_eq!(site.get(), None);
}
