//! The command line and the log filter on any bytes: an answer, and every word that
//! was not taken complained about.

use plat::cmdline;
use plat::logfilter::LogFilter;
use proptest::prelude::*;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 5 } else { 1000 },
        failure_persistence: None,
        ..Default::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_are_a_command_line(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut offsets = Vec::new();
        cmdline::parse(&bytes, &mut |complaint| {
            assert!(bytes[complaint.offset..].starts_with(complaint.word.as_bytes()));
            assert!(!complaint.to_string().contains('\n'));
            offsets.push(complaint.offset);
        });
        prop_assert!(offsets.is_sorted());
    }

    /// What begins within the limit and ends after it is not taken, nor is what follows.
    #[test]
    fn a_long_command_line_is_cut_between_words(
        before in 0..30_usize,
        words in proptest::collection::vec("(seed|test)=[1-9]{1,9}", 1..6),
    ) {
        let tail = words.join(" ");
        let text = format!("{}{tail}", " ".repeat(cmdline::MAX_LENGTH - before));
        let kept = match text.as_bytes().get(cmdline::MAX_LENGTH) {
            None => &text[..],
            Some(b' ') => &text[..cmdline::MAX_LENGTH],
            Some(_) => &text[..text[..cmdline::MAX_LENGTH].rfind(' ').unwrap()],
        };
        let mut cut = 0;
        let line = cmdline::parse(text.as_bytes(), &mut |complaint| {
            cut += usize::from(complaint.problem == cmdline::Problem::Cut);
        });
        prop_assert_eq!(line, cmdline::parse(kept.as_bytes(), &mut |_| ()));
        prop_assert_eq!(cut, usize::from(text.len() > cmdline::MAX_LENGTH));
    }

    #[test]
    fn words_are_taken_or_complained_about(
        words in proptest::collection::vec("(log|test|seed|bug|x|)(=|==|)(1|0x2|a,b|)", 0..8)
    ) {
        let text = words.join(" ");
        let (mut complaints, mut replaced) = (0, 0);
        let line = cmdline::parse(text.as_bytes(), &mut |complaint| {
            complaints += 1;
            replaced += usize::from(complaint.problem == cmdline::Problem::Repeated);
        });
        let taken = [line.log, line.test, line.bug].iter().flatten().count()
            + usize::from(line.seed.is_some());
        let written = words.iter().filter(|word| !word.is_empty()).count();
        prop_assert_eq!(taken + complaints, written);
        prop_assert!(replaced <= complaints);
    }

    #[test]
    fn any_text_is_a_log_filter(
        text in "[a-c:=, ]{0,40}|(([a-c](::[a-c])?=)?(off|warn|trace),){0,20}"
    ) {
        let filter = LogFilter::parse(&text, &mut |_| ());
        for target in ["a", "a::b", "kernel::b::c", ""] {
            prop_assert!(filter.level_for(target) <= filter.max_level());
        }
        let again = LogFilter::parse(&filter.to_string(), &mut |_| ());
        prop_assert_eq!(again.to_string(), filter.to_string());
    }
}
