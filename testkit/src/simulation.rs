//! How many runs a simulator makes, and from which seed: what its test says, unless `make sim` says something else.

/// How many runs to make; `usual` if the environment names no number.
#[must_use]
pub fn runs(usual: u32) -> u32 {
    number("TICKWIRE_SIM_RUNS").unwrap_or(usual)
}

/// The seed of the first run; `usual` if the environment names none. The others follow from it.
#[must_use]
pub fn seed(usual: u64) -> u64 {
    number("PROPTEST_RNG_SEED").unwrap_or(usual)
}

fn number<N: std::str::FromStr>(variable: &str) -> Option<N> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is no number: {value:?}")))
}
