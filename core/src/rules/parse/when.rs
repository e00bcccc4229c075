//! Reads which events a rule matches: kinds, a type, and conditions.

use std::collections::BTreeSet;

use compact_str::CompactString;
use serde_json::Value;

use super::super::condition::{Operator, RuleCondition};
use super::super::fault::{Located, RuleFault};
use super::super::field::{DATA, FIELD_NAMES, RuleField};
use super::super::limits::{
    MAX_ALTERNATIVES, MAX_CONDITION_DEPTH, MAX_GLOB, MAX_REGEX, MAX_RULE_CONDITIONS, MAX_RULE_KINDS,
};
use super::super::rule::When;
use super::super::type_pattern::TypePattern;
use crate::event::{Kind, Kinds, Priority, Regime, Tier, TradingSession};
use crate::filter::MAX_TEXT;
use crate::filter::conditions::DataPath;
use crate::filter::scalar::{Number, Scalar};
use crate::hint::{hint, quoted};

/// The names in a condition: the field with its operators, or one of the last three.
const CONDITION: [&str; 12] =
    ["field", "eq", "ne", "in", "contains", "prefix", "min", "max", "exists", "all", "any", "not"];

const FORMS: &str = "write {\"field\": …} with operators, or {\"all\": […]}, {\"any\": […]} or {\"not\": {…}}";

pub(super) fn read(when: &Located<'_>, kinds: &Kinds) -> Result<When, RuleFault> {
    let mut read = When::default();
    let mut left = MAX_RULE_CONDITIONS;
    for (name, value) in when.fields(&["kind", "type", "conditions"])? {
        match name {
            "kind" => read.kinds = Some(kinds_of(&value, kinds)?),
            "type" => read.event_type = Some(type_pattern(&value)?),
            _ => read.conditions = conditions(&value, kinds, 0, &mut left)?,
        }
    }
    Ok(read)
}

/// Reads one kind, or a list of kinds.
fn kinds_of(value: &Located<'_>, kinds: &Kinds) -> Result<BTreeSet<Kind>, RuleFault> {
    if value.value.is_array() {
        return value.entries(MAX_RULE_KINDS)?.iter().map(|entry| kind(entry, kinds)).collect();
    }
    Ok(BTreeSet::from([kind(value, kinds)?]))
}

fn kind(value: &Located<'_>, kinds: &Kinds) -> Result<Kind, RuleFault> {
    let text = value.value.as_str().ok_or_else(|| value.wrong_type("the name of a kind, or a list of them"))?;
    let kind = Kind::from(text);
    if kinds.audience(&kind).is_some() {
        return Ok(kind);
    }
    let known: Vec<_> = kinds.iter().map(Kind::as_str).collect();
    Err(value.fault(format_args!("unknown kind {}", quoted(text)), hint(text, known.iter().copied())))
}

/// Reads a glob as text, or an object with `glob` or `regex`.
fn type_pattern(value: &Located<'_>) -> Result<TypePattern, RuleFault> {
    if value.value.is_string() {
        return glob(value);
    }
    match &value.fields(&["glob", "regex"])?[..] {
        [("glob", text)] => glob(text),
        [("regex", text)] => regex(text),
        _ => Err(value.fault("not one pattern", "write a glob as text, or either \"glob\" or \"regex\" in an object")),
    }
}

fn glob(value: &Located<'_>) -> Result<TypePattern, RuleFault> {
    Ok(TypePattern::Glob(CompactString::from(value.text(MAX_GLOB)?)))
}

fn regex(value: &Located<'_>) -> Result<TypePattern, RuleFault> {
    TypePattern::regex(value.text(MAX_REGEX)?).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => value.fault(
            "the compiled regex is too large",
            "use fewer repetitions, and [A-Za-z0-9_] instead of \\w, which means the letters of all languages",
        ),
        error => {
            let text = error.to_string();
            let problem = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            value.fault(problem, "the syntax is that of the Rust crate regex: no look-around and no back-references")
        }
    })
}

/// Reads a list of conditions inside `depth` others; `left` is how many more the rule may have.
fn conditions(
    list: &Located<'_>,
    kinds: &Kinds,
    depth: usize,
    left: &mut usize,
) -> Result<Vec<RuleCondition>, RuleFault> {
    list.entries(MAX_RULE_CONDITIONS)?.iter().map(|entry| condition(entry, kinds, depth, left)).collect()
}

fn condition(value: &Located<'_>, kinds: &Kinds, depth: usize, left: &mut usize) -> Result<RuleCondition, RuleFault> {
    *left = left.checked_sub(1).ok_or_else(|| {
        let hint = format!("the limit is {MAX_RULE_CONDITIONS} in a rule; split the rule in several");
        value.fault("too many conditions", hint)
    })?;
    if depth > MAX_CONDITION_DEPTH {
        let hint = format!("the limit is {MAX_CONDITION_DEPTH} levels of all, any and not");
        return Err(value.fault("nested too deeply", hint));
    }
    let fields = value.fields(&CONDITION)?;
    match &fields[..] {
        [("all", list)] => Ok(RuleCondition::All(conditions(list, kinds, depth + 1, left)?)),
        [("any", list)] => Ok(RuleCondition::Any(conditions(list, kinds, depth + 1, left)?)),
        [("not", inner)] => Ok(RuleCondition::Not(Box::new(condition(inner, kinds, depth + 1, left)?))),
        _ => field_condition(value, &fields, kinds),
    }
}

/// Reads a field with its operators.
fn field_condition(
    value: &Located<'_>,
    fields: &[(&str, Located<'_>)],
    kinds: &Kinds,
) -> Result<RuleCondition, RuleFault> {
    let (_, name) =
        fields.iter().find(|(name, _)| *name == "field").ok_or_else(|| value.fault("it names no field", FORMS))?;
    let field = field(name)?;
    if let Some((name, extra)) = fields.iter().find(|(name, _)| matches!(*name, "all" | "any" | "not")) {
        return Err(extra.fault(format_args!("{name:?} beside \"field\""), FORMS));
    }
    let operators: Vec<Operator> = fields
        .iter()
        .filter(|(name, _)| *name != "field")
        .map(|(name, operand)| operator(&field, name, operand, kinds))
        .collect::<Result<_, _>>()?;
    if operators.is_empty() {
        return Err(value.fault("no operator", format_args!("use one or more of {}", CONDITION[1..9].join(", "))));
    }
    check_range(value, &operators)?;
    Ok(RuleCondition::Field(field, operators))
}

fn field(value: &Located<'_>) -> Result<RuleField, RuleFault> {
    let text = value.text(DATA.len() + DataPath::MAX)?;
    if let Some(path) = text.strip_prefix(DATA) {
        let path = DataPath::new(path).map_err(|error| value.fault(error, "write it as data.levels.support"))?;
        return Ok(RuleField::Data(path));
    }
    RuleField::named(text).ok_or_else(|| {
        let hint = hint(text, FIELD_NAMES);
        value.fault(
            format_args!("unknown field {}", quoted(text)),
            format_args!("{hint} (all else that producers send is under {DATA})"),
        )
    })
}

fn operator(field: &RuleField, name: &str, operand: &Located<'_>, kinds: &Kinds) -> Result<Operator, RuleFault> {
    let is_list = matches!(field, RuleField::Tags | RuleField::Rooms);
    if is_list && !matches!(name, "contains" | "exists") {
        return Err(operand.fault("the field is a list of texts", "use \"contains\" or \"exists\""));
    }
    let is_number = matches!(field, RuleField::Ts | RuleField::Stored | RuleField::Confidence);
    if is_number && matches!(name, "contains" | "prefix") {
        return Err(operand.fault("the field is a number", "use eq, ne, in, min, max or exists"));
    }
    Ok(match name {
        "eq" => Operator::Eq(scalar(field, operand, kinds)?),
        "ne" => Operator::Ne(scalar(field, operand, kinds)?),
        "in" => {
            let entries = operand.entries(MAX_ALTERNATIVES)?;
            let scalars = entries.iter().map(|entry| scalar(field, entry, kinds));
            let mut scalars = scalars.collect::<Result<Vec<_>, _>>()?;
            scalars.sort_unstable();
            scalars.dedup();
            Operator::In(scalars)
        }
        "contains" => Operator::Contains(part(operand)?),
        "prefix" => Operator::Prefix(CompactString::from(operand.text(MAX_TEXT)?)),
        "min" if *field == RuleField::Priority => Operator::MinPriority(operand.one_of()?),
        "max" if *field == RuleField::Priority => Operator::MaxPriority(operand.one_of()?),
        "min" => Operator::Min(number(field, operand)?),
        "max" => Operator::Max(number(field, operand)?),
        _ => Operator::Exists(operand.flag()?),
    })
}

/// Reads a value to compare with. The names of kinds, tiers, priorities, regimes and sessions are read in any case.
fn scalar(field: &RuleField, operand: &Located<'_>, kinds: &Kinds) -> Result<Scalar, RuleFault> {
    let name = |name: &str| Scalar::Text(CompactString::from(name));
    match field {
        RuleField::Kind => Ok(name(kind(operand, kinds)?.as_str())),
        RuleField::Tier => Ok(name(operand.one_of::<Tier>()?.as_str())),
        RuleField::Priority => Ok(name(operand.one_of::<Priority>()?.as_str())),
        RuleField::Regime => Ok(name(operand.one_of::<Regime>()?.as_str())),
        RuleField::Session => Ok(name(operand.one_of::<TradingSession>()?.as_str())),
        RuleField::Ts | RuleField::Stored | RuleField::Confidence => Ok(Scalar::Number(number(field, operand)?)),
        RuleField::Key | RuleField::Id | RuleField::Symbol | RuleField::Pattern => {
            let text = operand.value.as_str().ok_or_else(|| operand.wrong_type("text"))?;
            Ok(name(within(operand, text)?))
        }
        RuleField::Tags | RuleField::Rooms | RuleField::Data(_) => any_scalar(operand),
    }
}

fn any_scalar(operand: &Located<'_>) -> Result<Scalar, RuleFault> {
    if let Value::String(text) = operand.value {
        within(operand, text)?;
    }
    Scalar::of(operand.value).ok_or_else(|| operand.wrong_type("text, a number, true or false"))
}

/// The operand of `contains`. The empty text is refused: every text contains it, so it is a mistake.
fn part(operand: &Located<'_>) -> Result<Scalar, RuleFault> {
    if operand.value.is_string() {
        return Ok(Scalar::Text(CompactString::from(operand.text(MAX_TEXT)?)));
    }
    any_scalar(operand)
}

fn within<'v>(operand: &Located<'_>, text: &'v str) -> Result<&'v str, RuleFault> {
    match text.len() {
        len if len > MAX_TEXT => {
            Err(operand.fault(format_args!("{len} bytes"), format_args!("the limit is {MAX_TEXT} bytes")))
        }
        _ => Ok(text),
    }
}

fn number(field: &RuleField, operand: &Located<'_>) -> Result<Number, RuleFault> {
    let Value::Number(number) = operand.value else { return Err(operand.wrong_type("a number")) };
    let is_share = number.as_f64().is_some_and(|number| (0.0..=1.0).contains(&number));
    match field {
        RuleField::Confidence if !is_share => {
            Err(operand.fault(format_args!("found {number}"), "a confidence is a number from 0 to 1"))
        }
        RuleField::Ts | RuleField::Stored | RuleField::Confidence | RuleField::Data(_) => Ok(Number::from(number)),
        _ => Err(operand.fault("the field is no number", "use eq, ne, in or prefix; min and max are for numbers")),
    }
}

/// Refuses bounds between which there is no number.
fn check_range(value: &Located<'_>, operators: &[Operator]) -> Result<(), RuleFault> {
    let is_empty = operators.iter().any(|one| {
        operators.iter().any(|other| match (one, other) {
            (Operator::Min(min), Operator::Max(max)) => min > max,
            (Operator::MinPriority(min), Operator::MaxPriority(max)) => min > max,
            _ => false,
        })
    });
    if is_empty {
        Err(value.fault("\"min\" is above \"max\"", "no value is in this range; exchange them"))
    } else {
        Ok(())
    }
}
