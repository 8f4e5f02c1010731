# The broker and gomqctl in one image. Clients from outside the container are not on its loopback, so anonymous ones are refused until
# GOMQ_AUTH__ANONYMOUS=always, or users, are configured (README.md, "Docker").
FROM node:24-bookworm-slim AS build
WORKDIR /opt/gomq
# The manifests alone first: the installed packages stay cached until one of them changes.
COPY package.json package-lock.json ./
COPY client/package.json client/
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json ./
COPY src src
COPY cli cli
RUN npx tsc -p tsconfig.build.json \
 && chmod +x dist/src/main.js dist/cli/main.js \
 && npm prune --omit=dev --ignore-scripts --no-audit --no-fund \
 && rm -rf node_modules/@gomq

FROM node:24-bookworm-slim
ENV NODE_ENV=production
WORKDIR /opt/gomq
COPY --from=build /opt/gomq/package.json ./
COPY --from=build /opt/gomq/node_modules node_modules
COPY --from=build /opt/gomq/dist dist
RUN ln -s /opt/gomq/dist/src/main.js /usr/local/bin/gomq \
 && ln -s /opt/gomq/dist/cli/main.js /usr/local/bin/gomqctl \
 && install -d -o node -g node -m 0700 /var/lib/gomq
# The log and the state. A volume takes the folder's owner; a folder of the host has to be writable for user 1000.
ENV GOMQ_NODE__DATA=/var/lib/gomq
VOLUME /var/lib/gomq
USER node
EXPOSE 9000 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:8000/health/ready').then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
CMD ["gomq", "start", "--mqtt", "0.0.0.0:9000", "--http", "0.0.0.0:8000"]
