// A bot that is a program of another language. It is stopped by SIGTERM, as every bot is.
let number = Number(process.argv[2]);

const timer = setInterval(() => console.log(number++), 1000);

process.on("SIGTERM", () => {
  clearInterval(timer);
  console.log("closes the shop");
});
