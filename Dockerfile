# syntax=docker/dockerfile:1
# The proxy alone: built in one image, run in another that has nothing but it, as a user without rights.

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin causeway && cp target/release/causeway /causeway

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin causeway
COPY --from=build /causeway /usr/local/bin/causeway
USER causeway
EXPOSE 6432 9632
# Ready: it has found a primary and lets clients in.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9632 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["causeway"]
CMD ["run", "--config", "/etc/causeway/causeway.toml"]
