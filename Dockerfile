# syntax=docker/dockerfile:1
# The proxy alone: built in one image, run in another that has nothing but it and the C library, no shell
# and no package manager, as a user without rights.

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin causeway && cp target/release/causeway /causeway

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /causeway /usr/local/bin/causeway
# The image's own "nonroot".
USER 65532:65532
EXPOSE 6432 9632
# Ready: it has found a primary and lets clients in.
HEALTHCHECK --interval=5s --timeout=4s --start-period=10s --retries=3 \
    CMD ["causeway", "health", "--config", "/etc/causeway/causeway.toml"]
ENTRYPOINT ["causeway"]
CMD ["run", "--config", "/etc/causeway/causeway.toml"]
