//! A profile: the samples with names.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::sampler::Samples;
use symbols::Symbols;

/// The functions in which a CPU waits for an interrupt; one that polls by MWAIT is not halted to
/// QEMU.
const RESTS: [&str; 3] = [
    "kernel::arch::x86_64::cpu::sti_hlt",
    "kernel::arch::x86_64::cpu::sti_mwait",
    "kernel::arch::x86_64::cpu::halt_forever",
];

/// What to call code that the kernel's symbols do not name.
const UNKNOWN: &str = "(unknown)";

/// Call chains by name, and how often each was seen.
pub(super) struct Profile {
    /// Each outermost call first: the functions of one address, the one that holds the code and
    /// then what is inlined into it.
    chains: BTreeMap<Vec<Vec<String>>, u64>,
    /// How often a CPU rested.
    pub(super) idle: u64,
    /// How often a CPU was not in the kernel.
    pub(super) outside: u64,
    /// How often the machine was stopped.
    pub(super) rounds: u64,
    /// How many CPUs it has.
    pub(super) cpus: usize,
}

/// A function with its share.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hot {
    /// Its name.
    pub(super) function: String,
    /// How often a CPU was in its code, with what is inlined into it.
    pub(super) own: u64,
    /// How often it was in the call chain.
    pub(super) total: u64,
}

impl Profile {
    /// Names the functions of the samples.
    pub(super) fn new(samples: &Samples, symbols: &Symbols) -> Profile {
        let mut known = HashMap::new();
        let named = |address| {
            let mut functions = symbols.functions(address);
            functions.reverse();
            functions.iter_mut().for_each(|name| *name = plain(name));
            if functions.is_empty() { vec![UNKNOWN.to_string()] } else { functions }
        };
        let mut profile = Profile {
            chains: BTreeMap::new(),
            idle: samples.halted,
            outside: samples.outside,
            rounds: samples.rounds,
            cpus: samples.cpus,
        };
        for (chain, count) in &samples.chains {
            let mut names: Vec<Vec<String>> = Vec::new();
            for (depth, address) in chain.iter().enumerate() {
                // A return address follows its call.
                let at = address - u64::from(depth > 0);
                names.push(known.entry(at).or_insert_with(|| named(at)).clone());
            }
            let rests = |name: &String| RESTS.contains(&name.as_str());
            if names.first().is_some_and(|names| names.iter().any(rests)) {
                profile.idle += count;
                continue;
            }
            names.reverse();
            *profile.chains.entry(names).or_default() += count;
        }
        profile
    }

    /// How many samples are in functions of the kernel, at work.
    pub(super) fn busy(&self) -> u64 {
        self.chains.values().sum()
    }

    /// How many samples there are.
    pub(super) fn all(&self) -> u64 {
        self.busy() + self.idle + self.outside
    }

    /// The chains as `outer;inner COUNT`, a line each.
    pub(super) fn folded(&self) -> String {
        let line = |(chain, count): (&Vec<Vec<String>>, &u64)| {
            format!("{} {count}\n", chain.concat().join(";"))
        };
        self.chains.iter().map(line).collect()
    }

    /// The functions that have code of their own, the hottest first.
    pub(super) fn hottest(&self) -> Vec<Hot> {
        let mut hot: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (chain, count) in &self.chains {
            let functions = chain.iter().filter_map(|names| telling(names));
            if let Some(last) = functions.clone().next_back() {
                hot.entry(last).or_default().0 += count;
            }
            // A function that calls itself counts once.
            for function in functions.collect::<BTreeSet<_>>() {
                hot.entry(function).or_default().1 += count;
            }
        }
        let hot = hot.into_iter();
        let mut hot: Vec<Hot> = hot
            .map(|(function, (own, total))| Hot { function: function.to_string(), own, total })
            .collect();
        hot.sort_by_key(|hot| Reverse((hot.own, hot.total)));
        hot
    }

    /// A profile of these chains.
    #[cfg(test)]
    pub(super) fn of(chains: &[(&[&[&str]], u64)]) -> Profile {
        let owned = |names: &[&str]| names.iter().map(|name| plain(name)).collect();
        let chain = |chain: &[&[&str]]| chain.iter().map(|names| owned(names)).collect();
        let chains = chains.iter().map(|(names, count)| (chain(names), *count)).collect();
        Profile { chains, idle: 3, outside: 1, rounds: 5, cpus: 2 }
    }
}

/// The function that tells most about an address: of those inlined into each other there the outermost
/// that is not the library's. A closure's code, for example, is in `FnOnce::call_once`.
fn telling(names: &[String]) -> Option<&str> {
    let is_ours = |name: &&String| {
        let path = name.trim_start_matches(['<', '&']);
        !["core::", "alloc::"].iter().any(|of| path.starts_with(of))
    };
    names.iter().find(is_ours).or(names.first()).map(String::as_str)
}

/// A name in which no semicolon, as in `[T; 4]`, separates frames.
fn plain(name: &str) -> String {
    name.replace(';', ",")
}
