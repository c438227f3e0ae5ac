use super::Site;
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
