// PM2's own node API, told by lines of JSON what to do.
//
// node pm2_client.js DIRECTORY_OF_PM2, with PM2_HOME in the environment.

const path = require("path");
const readline = require("readline");
const {promisify} = require("util");

const pm2 = require(path.join(process.argv[2], "node_modules", "pm2"));
const [connect, start, remove, list] = ["connect", "start", "delete", "list"].map(
  (name) => promisify(pm2[name].bind(pm2)));

const verbs = {
  connect: async () => { await connect(); },
  start: async ({bots}) => {
    // All of them in one call, which PM2 works through as it sees fit.
    await start({apps: bots.map(({name, log, command: [script, ...args]}) => ({
      name, script, args, interpreter: "none", exec_mode: "fork", autorestart: true, vizion: false, pmx: false,
      out_file: log, error_file: log, merge_logs: true, min_uptime: 0, max_restarts: 1e6,
    }))});
  },
  stop: async ({names}) => { await Promise.all(names.map((name) => remove(name))); },
  list: async () => (await list()).filter((bot) => bot.pid).map((bot) => (
    {number: Number(bot.name), pid: bot.pid, cpu_percent: bot.monit.cpu, rss_bytes: bot.monit.memory})),
};

// What PM2 says to people is not for us.
console.log = console.info = () => {};

readline.createInterface({input: process.stdin})
  .on("line", async (line) => {
    const {verb, ...fields} = JSON.parse(line);
    let answer;
    try {
      answer = {answer: (await verbs[verb](fields)) ?? null};
    } catch (error) {
      answer = {error: String(error?.message ?? error?.[0]?.message ?? error)};
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  })
  .on("close", () => process.exit(0));
