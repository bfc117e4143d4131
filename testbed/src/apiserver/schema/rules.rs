//! Validation rules in CEL (`x-kubernetes-validations`): compiled with their schema, evaluated on what is written.
//!
//! An address or range is its canonical text here, which compares as the real server's types do.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use cel::{Context, ExecutionError, Program, Value as Cel, extractors::This};
use ipnetwork::IpNetwork;
use serde_json::Value;

use super::{Cause, join};

const RULES: &str = "x-kubernetes-validations";

/// The rules of a schema, by their text.
pub(super) type Programs = BTreeMap<String, Program>;

/// Compiles every rule.
pub(super) fn compile(schema: &Value) -> Result<Programs, String> {
    let mut programs = Programs::new();
    collect(schema, &mut programs)?;
    Ok(programs)
}

fn collect(schema: &Value, programs: &mut Programs) -> Result<(), String> {
    for rule in schema[RULES].as_array().into_iter().flatten() {
        for text in ["rule", "messageExpression"].into_iter().filter_map(|name| rule[name].as_str()) {
            let program = Program::compile(text).map_err(|error| format!("{text}: {error}"))?;
            programs.insert(text.to_owned(), program);
        }
    }
    let inner = schema["properties"].as_object().into_iter().flat_map(|fields| fields.values());
    let inner =
        inner.chain(["items", "additionalProperties"].into_iter().filter_map(|name| schema.get(name)));
    inner.filter(|schema| schema.is_object()).try_for_each(|schema| collect(schema, programs))
}

/// What `value` breaks. What an update leaves as it was is not judged again (ratcheting, as of Kubernetes 1.33).
pub(super) fn causes(programs: &Programs, schema: &Value, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    if !programs.is_empty() {
        check(programs, schema, "", value, old, &mut causes);
    }
    causes
}

fn check(
    programs: &Programs,
    schema: &Value,
    path: &str,
    value: &Value,
    old: Option<&Value>,
    causes: &mut Vec<Cause>,
) {
    if value.is_null() || old == Some(value) {
        return;
    }
    for rule in schema[RULES].as_array().into_iter().flatten() {
        let text = rule["rule"].as_str().unwrap_or_default();
        if text.contains("oldSelf") && old.is_none() {
            continue;
        }
        match holds(programs, text, value, old) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => {
                let said = rule["messageExpression"].as_str();
                let said = said.and_then(|text| match holds(programs, text, value, old) {
                    Ok(Cel::String(said)) => Some(said.to_string()),
                    _ => None,
                });
                let said = said.or_else(|| rule["message"].as_str().map(str::to_owned));
                let said = said.unwrap_or_else(|| format!("failed rule: {text}"));
                causes.push(Cause::invalid(path, value, said));
            }
            Err(error) => causes.push(Cause::invalid(path, value, format!("rule {text}: {error}"))),
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let inner = match schema["properties"].get(name) {
                    Some(inner) => inner,
                    None => &schema["additionalProperties"],
                };
                let old = old.and_then(|old| old.get(name));
                check(programs, inner, &join(path, name), value, old, causes);
            }
        }
        // Which item was which before is not known of lists that are replaced whole.
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check(programs, &schema["items"], &format!("{path}[{index}]"), item, None, causes);
            }
        }
        _ => {}
    }
}

fn holds(programs: &Programs, text: &str, value: &Value, old: Option<&Value>) -> Result<Cel, String> {
    let program = programs.get(text).ok_or("was not compiled")?;
    let context = context(value, old)?;
    program.execute(&context).map_err(|error| error.to_string())
}

fn context(value: &Value, old: Option<&Value>) -> Result<Context<'static, 'static>, String> {
    let mut context = Context::default();
    for (name, value) in [("self", Some(value)), ("oldSelf", old)] {
        if let Some(value) = value {
            context.add_variable_from_value(name, typed(value));
        }
    }
    let declared = context
        .add_function("isIP", |text: Arc<String>| text.parse::<IpAddr>().is_ok())
        .and_then(|()| context.add_function("isCIDR", |text: Arc<String>| range(&text).is_ok()))
        .and_then(|()| {
            context.add_function("cidr", |text: Arc<String>| {
                range(&text).map(|range| Arc::new(range.to_string()))
            })
        })
        .and_then(|()| context.add_function("masked", masked))
        .and_then(|()| context.add_function("prefixLength", prefix_length))
        .and_then(|()| context.add_function("ip", ip))
        .and_then(|()| context.add_function("family", family))
        .and_then(|()| context.add_function("isLinkLocalUnicast", is_link_local));
    declared.map_err(|error| error.to_string())?;
    Ok(context)
}

/// A value of CEL: whole numbers are `int`, as schemas have them.
fn typed(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(yes) => Cel::Bool(*yes),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Cel::Float(number.as_f64().unwrap_or_default()), Cel::Int)
        }
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(typed).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), typed(value)));
            fields.collect::<HashMap<_, _>>().into()
        }
    }
}

type Answer<T> = Result<T, ExecutionError>;

fn range(text: &str) -> Answer<IpNetwork> {
    let written = text.contains('/').then(|| text.parse::<IpNetwork>().ok());
    written.flatten().ok_or_else(|| ExecutionError::function_error("cidr", format!("{text} is no range")))
}

fn address(text: &str) -> Answer<IpAddr> {
    text.parse().map_err(|_| ExecutionError::function_error("ip", format!("{text} is no address")))
}

fn masked(This(text): This<Arc<String>>) -> Answer<Arc<String>> {
    let range = range(&text)?;
    Ok(Arc::new(format!("{}/{}", range.network(), range.prefix())))
}

fn prefix_length(This(text): This<Arc<String>>) -> Answer<i64> {
    range(&text).map(|range| range.prefix().into())
}

/// Of a range its address, of a text the address it says.
fn ip(This(text): This<Arc<String>>) -> Answer<Arc<String>> {
    let of_range = range(&text).map(|range| range.ip());
    of_range.or_else(|_| address(&text)).map(|address| Arc::new(address.to_string()))
}

fn family(This(text): This<Arc<String>>) -> Answer<i64> {
    address(&text).map(|address| if address.is_ipv4() { 4 } else { 6 })
}

fn is_link_local(This(text): This<Arc<String>>) -> Answer<bool> {
    address(&text).map(|address| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    })
}
