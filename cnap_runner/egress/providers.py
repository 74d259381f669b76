"""Where the usual model providers are reached.

Read from OpenCode 1.18.33 itself: the ``api`` of each provider in the model catalogue that its program carries (models.dev), and where the
catalogue has none, the default ``baseURL`` of the SDK that the catalogue names for it. A ``baseURL`` in a provider's options stands in their place.
"""

from __future__ import annotations

from collections.abc import Mapping

PROVIDER_HOSTS: Mapping[str, str] = {
    "alibaba": "dashscope-intl.aliyuncs.com",
    "anthropic": "api.anthropic.com",
    "azure": "*.openai.azure.com",  # the resource's name comes first
    "cerebras": "api.cerebras.ai",
    "cohere": "api.cohere.com",
    "deepinfra": "api.deepinfra.com",
    "deepseek": "api.deepseek.com",
    "fireworks-ai": "api.fireworks.ai",
    "github-copilot": "api.githubcopilot.com",
    "google": "generativelanguage.googleapis.com",
    "groq": "api.groq.com",
    "huggingface": "router.huggingface.co",
    "mistral": "api.mistral.ai",
    "moonshotai": "api.moonshot.ai",
    "moonshotai-cn": "api.moonshot.cn",
    "nvidia": "integrate.api.nvidia.com",
    "ollama-cloud": "ollama.com",
    "openai": "api.openai.com",
    "opencode": "opencode.ai",
    "openrouter": "openrouter.ai",
    "perplexity": "api.perplexity.ai",
    "togetherai": "api.together.xyz",
    "vercel": "ai-gateway.vercel.sh",
    "xai": "api.x.ai",
    "zai": "api.z.ai",
    "zhipuai": "open.bigmodel.cn",
}
"""Provider → a rule, as `cnap_runner.egress.rules` reads it, without its port, which is 443."""
