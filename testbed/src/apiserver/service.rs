//! One request, one answer: the server as a `tower::Service`.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header, request::Parts};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    ApiServer,
    access::{Call, Caller},
    delete::{self, Deleted, Options},
    discovery,
    error::ApiError,
    faults::{Outage, Verdict},
    openapi, protobuf,
    read::{self, Page},
    request::{Path, Query, Target, Verb, View, content_type},
    resource::Resource,
    state::State,
    watch::{Broken, Watch},
    write::Write,
};

/// The body of an answer: bytes, or the lines of a watch.
pub type Answer = UnsyncBoxBody<Bytes, Broken>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the real server takes in one request.
const LARGEST_BODY: usize = 3 << 20;

impl<B> tower::Service<Request<B>> for ApiServer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer>;
    type Error = Outage;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Outage>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Outage>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { server.answer(request).await })
    }
}

impl ApiServer {
    /// Answers a request.
    ///
    /// # Errors
    /// While an outage lasts.
    pub async fn answer<B>(&self, request: Request<B>) -> Result<Response<Answer>, Outage>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let answered = match self.serve(&parts, body).await? {
            Ok(response) => response,
            Err(error) => reply(error.code, &error.status(), &[]),
        };
        Ok(answered)
    }

    async fn serve<B>(&self, parts: &Parts, body: B) -> Result<Result<Response<Answer>, ApiError>, Outage>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let path = match Path::parse(parts.uri.path()) {
            Ok(path) => path,
            Err(error) => return Ok(Err(error)),
        };
        let caller = match Caller::of(parts) {
            Ok(caller) => caller,
            Err(error) => return Ok(Err(error)),
        };
        if let Path::Objects(target) = &path
            && target.is_token_request(&parts.method)
        {
            return Ok(match (read_body(&parts.headers, body).await, caller) {
                (Ok(request), None) => {
                    self.state().token(target, &request).map(|token| reply(201, &token, &[]))
                }
                (Ok(_), Some(_)) => Err(ApiError::method_not_allowed()),
                (Err(error), _) => Err(error),
            });
        }
        let verb = match &path {
            Path::Objects(target) => match Verb::of(&parts.method, target, &query, &parts.headers) {
                Ok(verb) => Some(verb),
                Err(error) => return Ok(Err(error)),
            },
            _ => None,
        };
        if let (Path::Objects(target), Some(verb), Some(caller)) = (&path, verb, &caller) {
            self.inner.calls.note(Call::new(caller, verb, target));
            let allowed = self.state().authorize(caller, verb, target);
            if let Err(error) = allowed {
                return Ok(Err(error));
            }
        }
        if let Verdict::Refuse(error) = self.inner.faults.meet(verb).await? {
            return Ok(Err(error));
        }
        Ok(match (path, verb) {
            (Path::Objects(target), Some(verb)) => match read_body(&parts.headers, body).await {
                Ok(body) => self.objects(&target, verb, &query, &parts.headers, body),
                Err(error) => Err(error),
            },
            (path, _) => self.describe(&path, &parts.headers),
        })
    }

    /// Everything but objects.
    fn describe(&self, path: &Path, headers: &HeaderMap) -> Result<Response<Answer>, ApiError> {
        match path {
            Path::Version => Ok(reply(200, &discovery::version(), &[])),
            Path::Calls => Ok(reply(200, &json!(self.inner.calls.read()), &[])),
            Path::Health => Ok(respond(200, "text/plain", Bytes::from_static(b"ok"))),
            Path::Discovery(path) => {
                let registry = &self.state().registry;
                if path.len() == 1 && discovery::wants_aggregated(headers) {
                    let document = discovery::aggregated(registry, path[0] == "api");
                    return Ok(respond(200, discovery::AGGREGATED, document.to_string().into()));
                }
                discovery::document(registry, path).map(|document| reply(200, &document, &[]))
            }
            Path::OpenApi(path) => {
                // The documents are large: the lock is not held while they are written.
                let registry = self.state().registry.clone();
                let document = openapi::document(&registry, path, headers)?;
                Ok(respond(200, document.media_type, document.body.into()))
            }
            Path::Objects(_) => Err(ApiError::unknown_path()),
        }
    }

    fn objects(
        &self,
        target: &Target,
        verb: Verb,
        query: &Query,
        headers: &HeaderMap,
        body: Value,
    ) -> Result<Response<Answer>, ApiError> {
        let view = View::negotiate(headers, query)?;
        let resource = self.state().registry.get(&target.group, &target.version, &target.plural).cloned();
        let resource = resource.ok_or_else(ApiError::unknown_path)?;
        let on_status = match target.subresource.as_deref() {
            None => false,
            Some("status") if resource.has_status => true,
            Some(_) => return Err(ApiError::unknown_path()),
        };
        if target.namespace.is_some() && !resource.namespaced {
            return Err(ApiError::unknown_path());
        }
        let counted =
            if on_status { format!("{}/status", resource.qualified()) } else { resource.qualified() };
        self.inner.requests.count(verb, counted);

        let namespace = target.namespace.as_deref();
        let name = target.name.as_deref().unwrap_or_default();
        if verb == Verb::Watch {
            let watch = Watch::open(&self.inner.state, resource, namespace, query, view, self.inner.watches)?;
            return Ok(stream(watch));
        }
        let alone = resource.namespaced && namespace.is_none() && verb != Verb::List;
        if alone || (on_status && matches!(verb, Verb::Delete | Verb::DeleteCollection)) {
            return Err(ApiError::method_not_allowed());
        }
        let write = Write {
            resource: &resource,
            namespace: namespace.unwrap_or_default(),
            query,
            manager: manager(query, headers),
            on_status,
            now: now(),
        };
        if verb.is_write() {
            return self.write(&write, verb, name, content_type(headers), body, view);
        }
        if verb == Verb::List {
            let page = Page::read(&self.state().store, &resource, namespace, query)?;
            return Ok(reply(200, &page.render(&resource, view), &[]));
        }
        let object = Arc::new(write.current(&self.state(), name)?);
        Ok(reply(200, &read::render_one(&resource, &object, view), &[]))
    }

    fn write(
        &self,
        write: &Write<'_>,
        verb: Verb,
        name: &str,
        content_type: &str,
        body: Value,
        view: View,
    ) -> Result<Response<Answer>, ApiError> {
        let resource = write.resource;
        let mut state = self.state();
        let written = match verb {
            Verb::Create => write.create(&mut state, body)?,
            Verb::Update => write.update(&mut state, name, body)?,
            Verb::Patch => write.patch(&mut state, name, content_type, body)?,
            Verb::Apply => write.apply(&mut state, name, body)?,
            Verb::Delete => {
                let deleted = write.delete(&mut state, name, &Options::read(&body, write.query)?)?;
                return Ok(reply(200, &deletion(resource, &deleted, view), &[]));
            }
            Verb::DeleteCollection => {
                let selectors = read::selectors(write.query, resource)?;
                let options = Options::read(&body, write.query)?;
                let deleted = write.delete_collection(&mut state, &selectors, &options)?;
                let page = Page::whole(deleted, state.store.revision());
                return Ok(reply(200, &page.render(resource, view), &[]));
            }
            Verb::Get | Verb::List | Verb::Watch => return Err(ApiError::method_not_allowed()),
        };
        drop(state);
        let object = read::render_one(resource, &written.object, view);
        Ok(reply(written.code, &object, &written.warnings))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The deleted object where it waits, or its kind says so; else that it is gone.
fn deletion(resource: &Resource, deleted: &Deleted, view: View) -> Value {
    let returned = ["pods", "services", "serviceaccounts"].iter().any(|plural| resource.is_core(plural));
    match deleted {
        Deleted::Gone(object) if !returned => delete::success(resource, object),
        deleted => read::render_one(resource, deleted.object(), view),
    }
}

/// Kubernetes' times have whole seconds.
pub(super) fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}

/// The field manager: as named, or the program of the user agent.
fn manager(query: &Query, headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let program = || agent.and_then(|agent| agent.split('/').next()).filter(|name| !name.is_empty());
    query.get("fieldManager").or_else(program).unwrap_or("unknown").to_owned()
}

async fn read_body<B>(headers: &HeaderMap, body: B) -> Result<Value, ApiError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let refuse = |error: BoxError| ApiError::bad_request(format!("the body could not be read: {error}"));
    let bytes = Limited::new(body, LARGEST_BODY).collect().await.map_err(refuse)?.to_bytes();
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let content_type = content_type(headers);
    if content_type == protobuf::MEDIA_TYPE {
        return protobuf::decode(&bytes);
    }
    if content_type.contains("yaml") {
        return serde_saphyr::from_slice(&bytes)
            .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")));
    }
    if !content_type.is_empty() && !content_type.contains("json") {
        let message = format!("the body of the request was in an unknown format: {content_type}");
        return Err(ApiError::unsupported_media_type(message));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("error decoding JSON: {error}")))
}

fn reply(code: u16, body: &Value, warnings: &[String]) -> Response<Answer> {
    let mut response = respond(code, "application/json", body.to_string().into());
    for warning in warnings {
        // RFC 9111, section 5.5, as Kubernetes uses it.
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

fn respond(code: u16, media_type: &'static str, body: Bytes) -> Response<Answer> {
    let never = |never: Infallible| match never {};
    let mut response = Response::new(Full::new(body).map_err(never).boxed_unsync());
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn stream(watch: Watch) -> Response<Answer> {
    let lines = futures::stream::unfold(watch, |mut watch| async {
        let line = watch.next().await?;
        Some((line.map(Frame::data), watch))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
