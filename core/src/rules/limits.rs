//! The limits of rules. They bound what a rule costs an event, and how much a set of rules can add to an event.

/// The most rules of a set.
pub const MAX_RULES: usize = 256;

/// The most rules that are read to find those of a set. Further ones are skipped unread, since reading takes time.
pub const MAX_READ_RULES: usize = 4 * MAX_RULES;

/// The most bytes of one rule, as JSON without spaces.
pub const MAX_RULE_BYTES: usize = 16 * 1024;

/// The most bytes of all rules of a set together. Rules add less than this to an event.
pub const MAX_SET_BYTES: usize = 256 * 1024;

/// The longest id of a rule, in bytes.
pub const MAX_RULE_ID: usize = 64;

/// The longest name of a rule, in bytes.
pub const MAX_RULE_NAME: usize = 128;

/// The longest description of a rule, in bytes.
pub const MAX_DESCRIPTION: usize = 1_024;

/// The most conditions of a rule, counted with those inside `all`, `any` and `not`.
pub const MAX_RULE_CONDITIONS: usize = 64;

/// The most levels of `all`, `any` and `not` around a condition.
pub const MAX_CONDITION_DEPTH: usize = 8;

/// The most entries of an `in` of a condition.
pub const MAX_ALTERNATIVES: usize = 1_000;

/// The most kinds that a rule names.
pub const MAX_RULE_KINDS: usize = 32;

/// The longest glob, in bytes.
pub const MAX_GLOB: usize = 128;

/// The longest regex, in bytes of its text.
pub const MAX_REGEX: usize = 256;

/// The most bytes of a compiled regex.
pub const MAX_REGEX_COMPILED: usize = 256 * 1024;

/// The most bytes that a regex caches while it searches.
pub const MAX_REGEX_CACHE: usize = 256 * 1024;

/// The most rooms that a rule names.
pub const MAX_RULE_ROOMS: usize = 64;

/// The most tags that a rule adds.
pub const MAX_RULE_TAGS: usize = 16;

/// The most fields that one part of a `transform` names.
pub const MAX_TRANSFORMED: usize = 32;

/// The most decimal places that `round` keeps.
pub const MAX_PLACES: u64 = 12;

/// The longest time to live, in milliseconds: a week.
pub const MAX_TTL_MS: u64 = 7 * 24 * 3_600 * 1_000;
