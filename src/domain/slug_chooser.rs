//! Chooses slugs for new packages or segments that have none, each from the stem of its name.
//!
//! [`SlugChooser`] determines which numbers to search, `store` finds those that no existing slug has, and the chooser
//! takes the first number that is not requested or chosen in the same call. A search reads a bounded number of index
//! entries, however many slugs have the same stem.

use std::collections::{HashMap, HashSet, VecDeque};

use serde::Serialize;

use super::{derived_slug::SlugStem, slug::Slug};

/// How many runs a search covers: numbers of up to nine digits. No tenant has a billion packages.
const RUNS_PER_SEARCH: u32 = 9;
/// Numbers have at most this many digits, so that they fit into 64 bits.
const MAX_DIGITS: u32 = 18;

/// A search for numbers whose slugs do not exist yet.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct SlugSearch {
    /// Identifies the search to [`SlugChooser::add_free`].
    pub id: i32,
    /// How many numbers to find, if there are as many.
    pub needed: usize,
    /// Where to search, in ascending order.
    pub runs: Vec<NumberRun>,
}

/// The numbers from `low` to `high`, which have the same number of digits. A slug is the prefix and the number, or, for
/// the number 1, the prefix alone.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct NumberRun {
    pub prefix: String,
    pub low: u64,
    pub high: u64,
}

/// Chooses one slug for each stem. They differ from each other and from the requested ones.
#[derive(Debug)]
pub struct SlugChooser<'a> {
    /// For each stem, the two sequences that its slug can be from, in order.
    stems: Vec<[usize; 2]>,
    sequences: Vec<Sequence<'a>>,
    /// The slugs of the first stems.
    chosen: Vec<Slug>,
    /// Requested or chosen.
    unavailable: HashSet<String>,
}

/// A sequence of numbered slugs: only 1, which is the stem itself, or all from 2 on. Stems that differ only where they
/// are truncated share the second kind.
#[derive(Debug)]
struct Sequence<'a> {
    stem: &'a SlugStem,
    /// Numbers that no existing slug has, in ascending order.
    free: VecDeque<u64>,
    /// The next search begins after this number.
    searched_to: u64,
}

impl<'a> SlugChooser<'a> {
    pub fn new(stems: impl IntoIterator<Item = &'a SlugStem>, requested: HashSet<String>) -> Self {
        let (mut sequences, mut bare, mut numbered) = (Vec::new(), HashMap::new(), HashMap::new());
        let mut add = |stem, searched_to| {
            sequences.push(Sequence { stem, free: VecDeque::new(), searched_to });
            sequences.len() - 1
        };
        let stems = stems.into_iter().map(|stem| {
            let bare = *bare.entry(stem).or_insert_with(|| add(stem, 0));
            let numbered = *numbered.entry(stem.prefix(1)).or_insert_with(|| add(stem, 1));
            [bare, numbered]
        });
        let stems = stems.collect();
        Self { stems, sequences, chosen: Vec::new(), unavailable: requested }
    }

    /// Chooses slugs as far as free numbers are known, and returns what to search before it can continue. If that is
    /// nothing, all slugs are chosen.
    pub fn next_searches(&mut self) -> Vec<SlugSearch> {
        while let Some(&sequences) = self.stems.get(self.chosen.len()) {
            let Some(slug) = sequences.into_iter().find_map(|index| self.take(index)) else { break };
            self.chosen.push(slug);
        }
        let mut needed = vec![0; self.sequences.len()];
        for index in self.stems[self.chosen.len()..].iter().flatten() {
            needed[*index] += 1;
        }
        let searches = self.sequences.iter_mut().zip(needed).zip(0..);
        searches.filter_map(|((sequence, needed), id)| sequence.next_search(id, needed)).collect()
    }

    fn take(&mut self, index: usize) -> Option<Slug> {
        let sequence = &mut self.sequences[index];
        while let Some(number) = sequence.free.pop_front() {
            if let Some(slug) = sequence.stem.numbered(number)
                && self.unavailable.insert(slug.to_string())
            {
                return Some(slug);
            }
        }
        None
    }

    /// Adds a number that a search has found. The numbers of a search are added in ascending order.
    pub fn add_free(&mut self, id: i32, number: u64) {
        if let Some(sequence) = usize::try_from(id).ok().and_then(|index| self.sequences.get_mut(index)) {
            sequence.free.push_back(number);
            sequence.searched_to = number;
        }
    }

    /// Returns the slugs in the order of the stems.
    pub fn into_slugs(self) -> Vec<Slug> {
        self.chosen
    }
}

impl Sequence<'_> {
    /// Returns the search for as many further numbers as are needed, and assumes that it finds none.
    fn next_search(&mut self, id: i32, needed: usize) -> Option<SlugSearch> {
        let needed = needed.checked_sub(self.free.len()).filter(|&needed| needed > 0)?;
        if self.searched_to == 0 {
            self.searched_to = u64::MAX;
            let prefix = self.stem.numbered(1)?.to_string();
            return Some(SlugSearch { id, needed: 1, runs: vec![NumberRun { prefix, low: 1, high: 1 }] });
        }
        let first = self.searched_to.checked_add(1)?;
        let digits = first.ilog10() + 1..=(first.ilog10() + RUNS_PER_SEARCH).min(MAX_DIGITS);
        self.searched_to = 10_u64.pow(*digits.end()) - 1;
        let runs = digits.map(|digits| NumberRun {
            prefix: self.stem.prefix(digits),
            low: first.max(10_u64.pow(digits - 1)),
            high: 10_u64.pow(digits) - 1,
        });
        Some(SlugSearch { id, needed, runs: runs.collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const MAX_LENGTH: usize = 63;

    fn stem(name: &str) -> SlugStem {
        SlugStem::from_name(name).unwrap()
    }

    /// Finds the smallest free numbers, as the database does while few numbers are taken.
    fn find_free(search: &SlugSearch, existing: &HashSet<String>) -> Vec<u64> {
        let numbers = search.runs.iter().flat_map(|run| {
            let slug = |number| if number == 1 { run.prefix.clone() } else { format!("{}{number}", run.prefix) };
            (run.low..=run.high).filter(move |&number| !existing.contains(&slug(number)))
        });
        numbers.take(search.needed).collect()
    }

    /// Returns the slugs and the number of rounds of searches.
    fn choose_all(stems: &[SlugStem], existing: &HashSet<String>) -> (Vec<Slug>, usize) {
        let mut chooser = SlugChooser::new(stems, HashSet::new());
        for round in 0.. {
            let searches = chooser.next_searches();
            if searches.is_empty() {
                return (chooser.into_slugs(), round);
            }
            for search in searches {
                for number in find_free(&search, existing) {
                    chooser.add_free(search.id, number);
                }
            }
        }
        unreachable!("the rounds end");
    }

    fn choose(name: &str, existing: &[&str]) -> String {
        let existing = existing.iter().map(|&slug| slug.to_owned()).collect();
        choose_all(&[stem(name)], &existing).0[0].to_string()
    }

    #[test]
    fn a_stem_whose_searches_find_nothing_is_searched_for_longer_numbers() {
        let gold = stem("Gold");
        let mut chooser = SlugChooser::new([&gold], HashSet::new());
        let ranges = |searches: Vec<SlugSearch>| -> Vec<(u64, u64)> {
            searches.iter().flat_map(|search| &search.runs).map(|run| (run.low, run.high)).collect()
        };
        let first = ranges(chooser.next_searches());
        assert_eq!((first.len(), &first[..3]), (10, &[(1, 1), (2, 9), (10, 99)][..]));
        assert_eq!(ranges(chooser.next_searches())[0], (1_000_000_000, 9_999_999_999));
        chooser.add_free(1, 5_000_000_000);
        assert_eq!(chooser.next_searches(), []);
        assert_eq!(chooser.into_slugs()[0].as_str(), "gold-5000000000");
    }

    #[test]
    fn a_requested_slug_is_not_chosen() {
        let gold = stem("Gold");
        let mut chooser = SlugChooser::new([&gold], HashSet::from(["gold-2".to_owned()]));
        chooser.next_searches();
        chooser.add_free(1, 2);
        let searches = chooser.next_searches();
        assert_eq!((searches[0].id, searches[0].needed, searches[0].runs[0].low), (1, 1, 3));
        chooser.add_free(1, 3);
        assert_eq!((chooser.next_searches(), chooser.into_slugs()[0].as_str()), (vec![], "gold-3"));
    }

    #[test]
    fn the_smallest_available_suffix_is_chosen_and_the_stem_truncated_for_it() {
        assert_eq!(choose("Gold", &[]), "gold");
        assert_eq!(choose("Gold", &["gold"]), "gold-2");
        assert_eq!(choose("Gold", &["gold", "gold-2", "gold-4"]), "gold-3");
        assert_eq!(choose("Gold", &["gold-2", "golden"]), "gold");
        for invalid in ["Q", "ab", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"] {
            assert_eq!(choose(invalid, &[]), format!("{}-2", stem(invalid).as_str()));
        }
        let (one_word, words) = ("a".repeat(63), format!("{}-{}", "a".repeat(58), "b".repeat(4)));
        assert_eq!(choose(&one_word, &[&one_word]), format!("{}-2", "a".repeat(61)));
        assert_eq!(choose(&words, &[&words]), format!("{}-2", "a".repeat(58)));
    }

    #[test]
    fn ten_thousand_slugs_with_one_stem_are_chosen_in_linear_time() {
        let word = "a".repeat(56);
        // The second names differ until they are truncated.
        for names in [vec![word.clone(); 10_000], (0..10_000).map(|number| format!("{word} {number:06}")).collect()] {
            let stems: Vec<_> = names.iter().map(|name| stem(name)).collect();
            let existing = stems.iter().map(|stem| stem.as_str().to_owned()).collect();
            let (slugs, rounds) = choose_all(&stems, &existing);
            for (slug, number) in slugs.iter().zip(2..) {
                assert_eq!(slug.as_str(), format!("{word}-{number}"));
            }
            assert_eq!((slugs.len(), rounds), (10_000, 1));
        }
    }

    fn any_stem() -> impl Strategy<Value = SlugStem> {
        let long = |end| format!("{} {end}", "a".repeat(55));
        let mut colliding = ["Q", "Gold", "Gold 2", "Golden", "s 1", "1"].map(str::to_owned).to_vec();
        colliding.extend(["b", "b c", "bb cc dd"].map(long));
        prop_oneof![3 => select(colliding), 1 => "\\PC{0,120}"]
            .prop_filter_map("a name without letters and digits", |name| SlugStem::from_name(&name).ok())
    }

    fn candidates(stem: &SlugStem) -> impl Iterator<Item = String> {
        let suffixed = (2..).map(|suffix: u32| stem.with_suffix(&suffix.to_string()).unwrap().to_string());
        Slug::parse(stem.as_str()).ok().map(|slug| slug.to_string()).into_iter().chain(suffixed)
    }

    proptest! {
        #[test]
        fn a_slug_of_short_words_ends_with_a_whole_word_also_with_a_suffix(words in vec("[b-y]{1,20}", 4..20)) {
            let slug = words.join("-");
            let whole: Vec<_> = (1..=words.len()).map(|count| words[..count].join("-")).collect();
            let name = words.join(" ");
            let first = choose(&name, &[]);
            let second = choose(&name, &[&first]);
            let tenth: Vec<String> = (2..=9).map(|number| format!("{}-{number}", second.trim_end_matches("-2"))).collect();
            let tenth = choose(&name, &tenth.iter().map(String::as_str).chain([first.as_str()]).collect::<Vec<_>>());
            prop_assert!(whole.contains(&first), "{first} {slug}");
            prop_assert!(whole.iter().any(|stem| format!("{stem}-2") == second), "{second} {slug}");
            prop_assert!(whole.iter().any(|stem| format!("{stem}-10") == tenth), "{tenth} {slug}");
        }

        #[test]
        fn each_stem_takes_suffixes_and_the_smallest_available_one_is_chosen(
            stems in vec(any_stem(), 0..40),
            existing in vec((any_stem(), 0_usize..40), 0..150),
        ) {
            let mut unavailable: HashSet<String> =
                existing.iter().filter_map(|(stem, index)| candidates(stem).nth(*index)).collect();
            let (slugs, _) = choose_all(&stems, &unavailable);
            for (stem, slug) in stems.iter().zip(slugs) {
                prop_assert!(stem.with_suffix("x7k2pd").is_some(), "{}", stem.as_str());
                let slug = slug.to_string();
                let expected = candidates(stem).find(|candidate| !unavailable.contains(candidate)).unwrap();
                prop_assert_eq!(&slug, &expected);
                prop_assert!(stem.as_str().len() <= MAX_LENGTH && slug.len() <= MAX_LENGTH);
                unavailable.insert(slug);
            }
        }
    }
}
