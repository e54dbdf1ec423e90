// Shows how the jobs come along: fetches the page every second and replaces the parts of class "live" that changed.
setInterval(async () => {
  if (document.hidden) return;
  try {
    const response = await fetch(location.href);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const part of document.querySelectorAll(".live")) {
      const news = page.getElementById(part.id);
      if (news && news.outerHTML !== part.outerHTML) part.replaceWith(news);
    }
  } catch {
    // The server is being restarted; the next second will tell.
  }
}, 1000);
